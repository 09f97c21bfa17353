#include "batch_queue.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "deadline.h"

#define NO_SLOT UINT32_MAX

typedef struct slot {
    uint64_t tag;
    uint64_t sequence; /* order of insertion: breaks ties, so no two keys are equal */
    void *item;        /* NULL while the slot is free */
    uint32_t generation;
    uint32_t place; /* index in the heap; the next free slot while the slot is free */
    unsigned priority;
} slot;

struct batch_queue {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t capacity;
    size_t num_items;
    size_t num_items_of_class[BATCH_QUEUE_NUM_CLASSES];
    uint64_t next_sequence;
    uint32_t first_free;
    bool kicked;
    bool closed;
    uint32_t *heap;
    slot *slots;
};

/* ---- life ---- */

static void init_slots(batch_queue *queue)
{
    for (size_t i = 0; i < queue->capacity; i++) {
        queue->slots[i].generation = 1; /* so that no handle is 0, which reads as none */
        queue->slots[i].place = i + 1 < queue->capacity ? (uint32_t)(i + 1) : NO_SLOT;
    }
    queue->first_free = 0;
}

static int init_lock(batch_queue *queue)
{
    int status = pthread_mutex_init(&queue->lock, NULL);
    if (status != 0)
        return status;
    status = deadline_cond_init(&queue->changed);
    if (status != 0)
        pthread_mutex_destroy(&queue->lock);
    return status;
}

static void free_memory(batch_queue *queue)
{
    free(queue->slots);
    free(queue->heap);
    free(queue);
}

batch_queue *batch_queue_new(size_t capacity)
{
    if (capacity == 0 || capacity > BATCH_QUEUE_MAX_CAPACITY) {
        errno = EINVAL;
        return NULL;
    }
    batch_queue *queue = calloc(1, sizeof(batch_queue));
    if (queue == NULL)
        return NULL;
    int status = ENOMEM;
    queue->capacity = capacity;
    queue->heap = calloc(capacity, sizeof(queue->heap[0]));
    queue->slots = calloc(capacity, sizeof(queue->slots[0]));
    if (queue->heap == NULL || queue->slots == NULL)
        goto failed;
    status = init_lock(queue);
    if (status != 0)
        goto failed;
    init_slots(queue);
    return queue;
failed:
    free_memory(queue);
    errno = status;
    return NULL;
}

void batch_queue_free(batch_queue *queue)
{
    if (queue == NULL)
        return;
    pthread_cond_destroy(&queue->changed);
    pthread_mutex_destroy(&queue->lock);
    free_memory(queue);
}

/* ---- the heap: all with the lock held ---- */

static bool comes_before(const slot *a, const slot *b)
{
    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (a->tag != b->tag)
        return a->tag < b->tag;
    return a->sequence < b->sequence;
}

static slot *slot_at(batch_queue *queue, size_t place)
{
    return &queue->slots[queue->heap[place]];
}

static void set_place(batch_queue *queue, size_t place, uint32_t number)
{
    queue->heap[place] = number;
    queue->slots[number].place = (uint32_t)place;
}

static void sift_up(batch_queue *queue, size_t place)
{
    uint32_t number = queue->heap[place];
    while (place > 0) {
        size_t parent = (place - 1) / 2;
        if (!comes_before(&queue->slots[number], slot_at(queue, parent)))
            break;
        set_place(queue, place, queue->heap[parent]);
        place = parent;
    }
    set_place(queue, place, number);
}

static void sift_down(batch_queue *queue, size_t place)
{
    uint32_t number = queue->heap[place];
    for (;;) {
        size_t child = 2 * place + 1;
        if (child >= queue->num_items)
            break;
        if (child + 1 < queue->num_items &&
            comes_before(slot_at(queue, child + 1), slot_at(queue, child)))
            child++;
        if (!comes_before(slot_at(queue, child), &queue->slots[number]))
            break;
        set_place(queue, place, queue->heap[child]);
        place = child;
    }
    set_place(queue, place, number);
}

/* Gives the slot back and makes its handle stale. Returns its item. */
static void *empty_slot(batch_queue *queue, uint32_t number)
{
    slot *emptied = &queue->slots[number];
    void *item = emptied->item;
    emptied->item = NULL;
    emptied->generation++;
    emptied->place = queue->first_free;
    queue->first_free = number;
    queue->num_items_of_class[emptied->priority]--;
    return item;
}

/* Takes the item at a place out; the last one of the heap fills the gap. */
static void *take_at(batch_queue *queue, size_t place)
{
    uint32_t number = queue->heap[place];
    size_t last = --queue->num_items;
    if (place != last) {
        set_place(queue, place, queue->heap[last]);
        sift_up(queue, place);
        sift_down(queue, place);
    }
    return empty_slot(queue, number);
}

static size_t take_best(batch_queue *queue, void **items, size_t max_items)
{
    size_t num_taken = 0;
    while (num_taken < max_items && queue->num_items > 0)
        items[num_taken++] = take_at(queue, 0);
    return num_taken;
}

/* ---- handles ---- */

static uint64_t handle_of(const batch_queue *queue, uint32_t number)
{
    return (uint64_t)queue->slots[number].generation << 32 | number;
}

/* The handle's slot, or NULL if its item has left. */
static slot *find_slot(batch_queue *queue, uint64_t handle)
{
    uint32_t number = (uint32_t)handle;
    if (number >= queue->capacity || queue->slots[number].item == NULL)
        return NULL;
    return handle == handle_of(queue, number) ? &queue->slots[number] : NULL;
}

/* ---- putting and taking ---- */

static uint64_t insert(batch_queue *queue, void *item, unsigned priority, uint64_t tag)
{
    uint32_t number = queue->first_free;
    slot *filled = &queue->slots[number];
    queue->first_free = filled->place;
    filled->item = item;
    filled->priority = priority;
    filled->tag = tag;
    filled->sequence = queue->next_sequence++;
    queue->num_items_of_class[priority]++;
    size_t place = queue->num_items++;
    set_place(queue, place, number);
    sift_up(queue, place);
    return handle_of(queue, number);
}

batch_queue_status batch_queue_put(batch_queue *queue, void *item, unsigned priority,
                                   uint64_t tag, uint64_t *handle)
{
    assert(item != NULL && priority < BATCH_QUEUE_NUM_CLASSES);
    batch_queue_status status = BATCH_QUEUE_OK;
    pthread_mutex_lock(&queue->lock);
    if (queue->closed)
        status = BATCH_QUEUE_CLOSED;
    else if (queue->num_items == queue->capacity)
        status = BATCH_QUEUE_FULL;
    else
        *handle = insert(queue, item, priority, tag);
    pthread_mutex_unlock(&queue->lock);
    /* All are woken, since one that may take nothing now (max_items 0) could swallow a
     * single signal. There is one taker in practice. */
    if (status == BATCH_QUEUE_OK)
        pthread_cond_broadcast(&queue->changed);
    return status;
}

static batch_queue_wake wait_for_reason(batch_queue *queue, size_t max_items,
                                        int64_t deadline_ns)
{
    for (;;) {
        if (queue->num_items > 0 && max_items > 0)
            return BATCH_QUEUE_HAS_ITEMS;
        if (queue->closed)
            return BATCH_QUEUE_WAS_CLOSED;
        if (deadline_passed(deadline_ns))
            return BATCH_QUEUE_TIMED_OUT;
        if (queue->kicked) {
            queue->kicked = false;
            return BATCH_QUEUE_WAS_KICKED;
        }
        deadline_wait(&queue->changed, &queue->lock, deadline_ns);
    }
}

batch_queue_wake batch_queue_take(batch_queue *queue, void **items, size_t max_items,
                                  int64_t deadline_ns, size_t *num_taken)
{
    *num_taken = 0;
    pthread_mutex_lock(&queue->lock);
    batch_queue_wake wake = wait_for_reason(queue, max_items, deadline_ns);
    if (wake == BATCH_QUEUE_HAS_ITEMS)
        *num_taken = take_best(queue, items, max_items);
    pthread_mutex_unlock(&queue->lock);
    return wake;
}

void *batch_queue_remove(batch_queue *queue, uint64_t handle)
{
    void *item = NULL;
    pthread_mutex_lock(&queue->lock);
    const slot *found = find_slot(queue, handle);
    if (found != NULL)
        item = take_at(queue, found->place);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void batch_queue_kick(batch_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->kicked = true;
    pthread_mutex_unlock(&queue->lock);
    pthread_cond_broadcast(&queue->changed);
}

size_t batch_queue_close(batch_queue *queue, void **items)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    size_t num_left = take_best(queue, items, queue->num_items);
    pthread_mutex_unlock(&queue->lock);
    pthread_cond_broadcast(&queue->changed);
    return num_left;
}

/* ---- figures ---- */

bool batch_queue_is_closed(batch_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    bool closed = queue->closed;
    pthread_mutex_unlock(&queue->lock);
    return closed;
}

size_t batch_queue_length(batch_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    size_t length = queue->num_items;
    pthread_mutex_unlock(&queue->lock);
    return length;
}

size_t batch_queue_count(batch_queue *queue, unsigned priority)
{
    assert(priority < BATCH_QUEUE_NUM_CLASSES);
    pthread_mutex_lock(&queue->lock);
    size_t count = queue->num_items_of_class[priority];
    pthread_mutex_unlock(&queue->lock);
    return count;
}

size_t batch_queue_capacity(const batch_queue *queue)
{
    return queue->capacity;
}

static size_t count_before(batch_queue *queue, const slot *reference)
{
    size_t count = 0;
    for (size_t place = 0; place < queue->num_items; place++)
        count += comes_before(slot_at(queue, place), reference);
    return count;
}

bool batch_queue_position(batch_queue *queue, uint64_t handle, size_t *num_ahead)
{
    pthread_mutex_lock(&queue->lock);
    const slot *found = find_slot(queue, handle);
    if (found != NULL)
        *num_ahead = count_before(queue, found);
    pthread_mutex_unlock(&queue->lock);
    return found != NULL;
}

/* ---- integrity ---- */

static bool is_place_sound(batch_queue *queue, size_t place)
{
    const slot *here = slot_at(queue, place);
    return here->item != NULL && here->place == place &&
           (place == 0 || comes_before(slot_at(queue, (place - 1) / 2), here));
}

static size_t count_free_slots(const batch_queue *queue)
{
    size_t count = 0;
    uint32_t number = queue->first_free;
    while (number != NO_SLOT && count <= queue->capacity && queue->slots[number].item == NULL) {
        number = queue->slots[number].place;
        count++;
    }
    return count;
}

static size_t sum_of_classes(const batch_queue *queue)
{
    size_t sum = 0;
    for (unsigned priority = 0; priority < BATCH_QUEUE_NUM_CLASSES; priority++)
        sum += queue->num_items_of_class[priority];
    return sum;
}

bool batch_queue_check_integrity(batch_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    bool sound = sum_of_classes(queue) == queue->num_items &&
                 count_free_slots(queue) == queue->capacity - queue->num_items;
    for (size_t place = 0; sound && place < queue->num_items; place++)
        sound = is_place_sound(queue, place);
    pthread_mutex_unlock(&queue->lock);
    return sound;
}
