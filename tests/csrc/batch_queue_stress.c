/* Several threads on one batch queue: each item leaves once, and no wait is forgotten. */
#define _GNU_SOURCE 1

#include <sched.h>
#include <stdatomic.h>

#include "batch_queue.h"
#include "check.h"
#include "deadline.h"

#define NUM_PRODUCERS 2
#define NUM_TAKERS 2
#define ITEMS_EACH 10000
#define NUM_ITEMS (NUM_PRODUCERS * ITEMS_EACH)
#define CAPACITY 64
#define NUM_KICKS 5000

struct item {
    int payload; /* plain, so that a sanitizer judges what orders it */
    _Atomic int num_handed_out;
};

static struct item items[NUM_ITEMS];
static _Atomic uint64_t handles[NUM_ITEMS];
static _Atomic int num_left = NUM_ITEMS;
static _Atomic int num_removed;

static void hand_out(struct item *item)
{
    CHECK(item->payload == (int)(item - items) + 1);
    CHECK(atomic_fetch_add(&item->num_handed_out, 1) == 0);
    atomic_fetch_sub(&num_left, 1);
}

/* ---- each item leaves exactly once ---- */

static void try_to_remove(batch_queue *queue, int number)
{
    struct item *item = batch_queue_remove(queue, atomic_load(&handles[number]));
    if (item == NULL)
        return;
    CHECK(item == &items[number]);
    atomic_fetch_add(&num_removed, 1);
    hand_out(item);
}

struct producer {
    batch_queue *queue;
    int first;
};

static void *produce(void *argument)
{
    struct producer *self = argument;
    for (int number = self->first; number < self->first + ITEMS_EACH; number++) {
        uint64_t handle;
        items[number].payload = number + 1;
        while (batch_queue_put(self->queue, &items[number], (unsigned)number % 3,
                               (uint64_t)number * 7919 % 101, &handle) != BATCH_QUEUE_OK)
            sched_yield();
        atomic_store(&handles[number], handle);
        if (number % 4 == 0)
            try_to_remove(self->queue, number); /* at once, so that some still wait */
    }
    return NULL;
}

static void *take_until_closed(void *argument)
{
    batch_queue *queue = argument;
    void *taken[5];
    size_t num_taken;
    for (;;) {
        batch_queue_wake wake = batch_queue_take(queue, taken, 5, DEADLINE_NEVER, &num_taken);
        CHECK((wake == BATCH_QUEUE_HAS_ITEMS) == (num_taken > 0));
        for (size_t i = 0; i < num_taken; i++)
            hand_out(taken[i]);
        if (wake == BATCH_QUEUE_WAS_CLOSED)
            return NULL;
    }
}

/* Tries handles of items that may wait, be gone, or not have come yet. */
static void *remove_some(void *argument)
{
    batch_queue *queue = argument;
    for (unsigned number = 0; atomic_load(&num_left) > 0; number = (number + 11) % NUM_ITEMS) {
        try_to_remove(queue, (int)number);
        CHECK(batch_queue_length(queue) <= CAPACITY);
    }
    return NULL;
}

static void test_each_item_leaves_once(void)
{
    batch_queue *queue = batch_queue_new(CAPACITY);
    CHECK(queue != NULL);
    struct producer producers[NUM_PRODUCERS];
    pthread_t putting[NUM_PRODUCERS];
    pthread_t taking[NUM_TAKERS];
    for (int i = 0; i < NUM_TAKERS; i++)
        taking[i] = start_thread(take_until_closed, queue);
    for (int i = 0; i < NUM_PRODUCERS; i++) {
        producers[i] = (struct producer){.queue = queue, .first = i * ITEMS_EACH};
        putting[i] = start_thread(produce, &producers[i]);
    }
    pthread_t removing = start_thread(remove_some, queue);
    for (int i = 0; i < NUM_PRODUCERS; i++)
        join_thread(putting[i]);
    while (atomic_load(&num_left) > 0) {
        CHECK(batch_queue_check_integrity(queue));
        sched_yield();
    }
    CHECK(batch_queue_close(queue, NULL) == 0);
    join_thread(removing);
    for (int i = 0; i < NUM_TAKERS; i++)
        join_thread(taking[i]);
    for (int number = 0; number < NUM_ITEMS; number++)
        CHECK(atomic_load(&items[number].num_handed_out) == 1);
    CHECK(atomic_load(&num_removed) > 0);
    batch_queue_free(queue);
}

/* ---- a kick ends one wait, whether it comes before or during it ---- */

struct kicked {
    batch_queue *queue;
    sem_t returned;
};

static void *wait_for_kicks(void *argument)
{
    struct kicked *self = argument;
    size_t num_taken;
    for (int i = 0; i < NUM_KICKS; i++) {
        batch_queue_wake wake =
            batch_queue_take(self->queue, NULL, 0, DEADLINE_NEVER, &num_taken);
        CHECK(wake == BATCH_QUEUE_WAS_KICKED);
        sem_post(&self->returned);
    }
    return NULL;
}

static void test_no_kick_is_lost(void)
{
    struct kicked kicked = {.queue = batch_queue_new(1)};
    sem_init(&kicked.returned, 0, 0);
    pthread_t waiter = start_thread(wait_for_kicks, &kicked);
    for (int i = 0; i < NUM_KICKS; i++) {
        batch_queue_kick(kicked.queue);
        wait_for(&kicked.returned);
    }
    join_thread(waiter);
    sem_destroy(&kicked.returned);
    batch_queue_free(kicked.queue);
}

/* ---- what is left at close comes out in order ---- */

static void test_close_returns_the_rest_in_order(void)
{
    static struct item waiting[CAPACITY];
    void *left[CAPACITY];
    uint64_t handle;
    batch_queue *queue = batch_queue_new(CAPACITY);
    for (uint64_t i = 0; i < CAPACITY; i++)
        CHECK(batch_queue_put(queue, &waiting[i], 1, CAPACITY - i, &handle) == BATCH_QUEUE_OK);
    CHECK(batch_queue_put(queue, &waiting[0], 0, 0, &handle) == BATCH_QUEUE_FULL);
    CHECK(batch_queue_close(queue, left) == CAPACITY);
    for (int i = 0; i < CAPACITY; i++)
        CHECK(left[i] == &waiting[CAPACITY - 1 - i]);
    CHECK(batch_queue_put(queue, &waiting[0], 0, 0, &handle) == BATCH_QUEUE_CLOSED);
    CHECK(batch_queue_close(queue, left) == 0);
    batch_queue_free(queue);
}

int main(void)
{
    test_each_item_leaves_once();
    test_no_kick_is_lost();
    test_close_returns_the_rest_in_order();
    puts("batch_queue: ok");
    return 0;
}
