/* Threads that take turns: one at a time, and in the order in which they asked. */
#define _GNU_SOURCE 1

#include <sched.h>

#include "check.h"
#include "kernels/turns.h"

#define NUM_THREADS 3
#define NUM_ROUNDS 2000

/* ---- one at a time ---- */

struct shared {
    struct turns turns;
    int num_rounds; /* plain, so that a sanitizer judges what orders it */
};

static void *count_rounds(void *argument)
{
    struct shared *shared = argument;
    for (int round = 0; round < NUM_ROUNDS; round++) {
        turns_begin(&shared->turns);
        shared->num_rounds++;
        turns_end(&shared->turns);
    }
    return NULL;
}

static void test_one_at_a_time(void)
{
    struct shared shared = {0};
    pthread_t threads[NUM_THREADS];
    CHECK(turns_init(&shared.turns) == 0);
    for (int i = 0; i < NUM_THREADS; i++)
        threads[i] = start_thread(count_rounds, &shared);
    for (int i = 0; i < NUM_THREADS; i++)
        join_thread(threads[i]);
    CHECK(shared.num_rounds == NUM_THREADS * NUM_ROUNDS);
    turns_destroy(&shared.turns);
}

/* ---- first come, first served ---- */

struct queue {
    struct turns turns;
    int order[NUM_THREADS];
    int num_served;
};

struct customer {
    struct queue *queue;
    int number;
};

static void *be_served(void *argument)
{
    struct customer *self = argument;
    turns_begin(&self->queue->turns);
    self->queue->order[self->queue->num_served++] = self->number;
    turns_end(&self->queue->turns);
    return NULL;
}

static void wait_until_asked(struct turns *turns, uint64_t num_asked)
{
    uint64_t seen;
    do {
        sched_yield();
        pthread_mutex_lock(&turns->lock);
        seen = turns->next_number;
        pthread_mutex_unlock(&turns->lock);
    } while (seen < num_asked);
}

static void test_first_come_first_served(void)
{
    struct queue queue = {0};
    struct customer customers[NUM_THREADS];
    pthread_t threads[NUM_THREADS];
    CHECK(turns_init(&queue.turns) == 0);
    turns_begin(&queue.turns);
    for (int i = 0; i < NUM_THREADS; i++) {
        customers[i] = (struct customer){.queue = &queue, .number = i};
        threads[i] = start_thread(be_served, &customers[i]);
        wait_until_asked(&queue.turns, (uint64_t)i + 2);
    }
    turns_end(&queue.turns);
    for (int i = 0; i < NUM_THREADS; i++)
        join_thread(threads[i]);
    for (int i = 0; i < NUM_THREADS; i++)
        CHECK(queue.order[i] == i);
    turns_destroy(&queue.turns);
}

int main(void)
{
    test_one_at_a_time();
    for (int round = 0; round < 50; round++)
        test_first_come_first_served();
    puts("turns: ok");
    return 0;
}
