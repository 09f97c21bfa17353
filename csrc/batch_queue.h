/* batch_queue: the bounded priority queue of requests that wait for a seat in an engine.
 *
 * The hub puts, the inference thread takes; both may remove. Items come out in the order of
 * (class, tag, order of insertion), lowest first: the class is the request's priority, the
 * tag is whatever order the caller wants inside a class.
 *
 *   heap[]   slot numbers, the best at 0; an array heap, so all changes cost O(log n)
 *   slots[]  one per item: key, item, its place in heap[], and a generation
 *
 * A handle is a slot number plus the generation that the slot had at put. The generation
 * changes when the item leaves, so a handle kept too long finds nothing; it would take 2^32
 * more items through the same slot to make it valid again.
 *
 * Items are opaque pointers, owned by the queue from put until they are handed out. One
 * mutex guards everything; it is held for the time of a few heap operations and never while
 * foreign code runs, so it may be taken with the GIL held. Only batch_queue_take() waits, on
 * a condition over CLOCK_MONOTONIC.
 */
#ifndef REALTIME_SERVE_BATCH_QUEUE_H
#define REALTIME_SERVE_BATCH_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* HIGH, NORMAL, LOW. */
#define BATCH_QUEUE_NUM_CLASSES 3

/* 2^20 slots are 44 MiB: far more requests than may sensibly wait. */
#define BATCH_QUEUE_MAX_CAPACITY ((size_t)1 << 20)

typedef struct batch_queue batch_queue;

typedef enum batch_queue_status {
    BATCH_QUEUE_OK,
    BATCH_QUEUE_FULL,
    BATCH_QUEUE_CLOSED,
} batch_queue_status;

/* Why batch_queue_take() came back. */
typedef enum batch_queue_wake {
    BATCH_QUEUE_HAS_ITEMS,
    BATCH_QUEUE_WAS_KICKED,
    BATCH_QUEUE_WAS_CLOSED,
    BATCH_QUEUE_TIMED_OUT,
} batch_queue_wake;

/* Makes an empty queue with room for capacity items, all allocated here. Returns NULL with
 * errno EINVAL (capacity is 0 or above BATCH_QUEUE_MAX_CAPACITY), ENOMEM, or what
 * pthread_mutex_init(3) and pthread_cond_init(3) give. */
batch_queue *batch_queue_new(size_t capacity);

/* Frees the queue, but not the items still in it: take or close first. No thread may be
 * inside any function of the queue. NULL is let through. */
void batch_queue_free(batch_queue *queue);

/* Adds an item (not NULL) in class priority, 0 to BATCH_QUEUE_NUM_CLASSES - 1, and stores its
 * handle. Never waits for room. Returns BATCH_QUEUE_FULL or BATCH_QUEUE_CLOSED, and does
 * nothing, if it cannot. Any thread. */
batch_queue_status batch_queue_put(batch_queue *queue, void *item, unsigned priority,
                                   uint64_t tag, uint64_t *handle);

/* Moves up to max_items items to items, best first, and stores how many in num_taken.
 * Waits until there is an item and max_items is not 0, or the queue was kicked or closed, or
 * the deadline is reached, and says which; num_taken is 0 but for BATCH_QUEUE_HAS_ITEMS. A
 * deadline already passed never waits and uses no kick up. Any thread; call it without the
 * GIL if it may wait. */
batch_queue_wake batch_queue_take(batch_queue *queue, void **items, size_t max_items,
                                  int64_t deadline_ns, size_t *num_taken);

/* Takes one item out of its place. Returns NULL if the handle's item has left. Any thread. */
void *batch_queue_remove(batch_queue *queue, uint64_t handle);

/* Ends one wait in batch_queue_take(): the present one or, if nobody waits, the next one.
 * Kicks are not counted: several before that wait are one. Any thread. */
void batch_queue_kick(batch_queue *queue);

/* Refuses all further items, ends all waits, and moves what is left to items, which has room
 * for the queue's capacity, best first. Returns how many; 0 if it was closed already. */
size_t batch_queue_close(batch_queue *queue, void **items);

/* Figures of this instant. Any thread. */
bool batch_queue_is_closed(batch_queue *queue);
size_t batch_queue_length(batch_queue *queue);
size_t batch_queue_count(batch_queue *queue, unsigned priority);
size_t batch_queue_capacity(const batch_queue *queue);

/* Stores how many items come before the handle's; O(n). Returns false, and stores nothing,
 * if its item has left. Any thread. */
bool batch_queue_position(batch_queue *queue, uint64_t handle, size_t *num_ahead);

/* Whether heap, slots and counts agree with each other; O(n), for tests. Any thread. */
bool batch_queue_check_integrity(batch_queue *queue);

#endif
