/* Two threads on one token ring: order and content, one terminal state, no lost wake-up. */
#define _GNU_SOURCE 1

#include <sched.h>

#include "check.h"
#include "token_ring.h"

#define NUM_RECORDS 20000
#define NUM_ROUNDS 3000

static token_record record_of(int number)
{
    return (token_record){
        .token_id = number,
        .index = (uint16_t)(number % 7),
        .logprob = -0.5 * number,
        .flags = (uint16_t)(number % 3),
    };
}

static void check_record(const token_record *record, int number)
{
    token_record expected = record_of(number);
    CHECK(record->token_id == expected.token_id);
    CHECK(record->index == expected.index);
    CHECK(record->logprob == expected.logprob);
    CHECK(record->flags == expected.flags);
}

/* ---- every record arrives once, in order and whole ---- */

static void *produce_all(void *argument)
{
    token_ring *ring = argument;
    for (int number = 0; number < NUM_RECORDS; number++) {
        token_record record = record_of(number);
        while (!token_ring_push(ring, &record))
            sched_yield();
    }
    CHECK(token_ring_finish(ring, TOKEN_LENGTH));
    token_ring_release(ring);
    return NULL;
}

static int consume_until_end(token_ring *ring)
{
    token_record records[5];
    int num_seen = 0;
    for (;;) {
        token_state state = token_ring_state(ring);
        size_t num_popped = token_ring_pop(ring, records, 1 + (size_t)num_seen % 5);
        for (size_t i = 0; i < num_popped; i++)
            check_record(&records[i], num_seen++);
        if (num_popped == 0 && state != TOKEN_OPEN)
            return num_seen;
        if (num_popped == 0)
            sched_yield();
        CHECK(token_ring_length(ring) <= token_ring_capacity(ring));
    }
}

static void test_order_and_content(size_t capacity)
{
    token_ring *ring = token_ring_new(capacity);
    CHECK(ring != NULL);
    pthread_t producer = start_thread(produce_all, token_ring_retain(ring));
    CHECK(consume_until_end(ring) == NUM_RECORDS);
    CHECK(token_ring_state(ring) == TOKEN_LENGTH);
    join_thread(producer);
    token_ring_release(ring);
}

/* ---- of two that end a stream, or ask for its end, one wins ---- */

struct contest {
    pthread_barrier_t start;
    pthread_barrier_t end;
    token_ring *ring;
};

struct contender {
    struct contest *contest;
    token_state finish;
    token_state wish;
    bool finished;
    bool wished;
};

static void *contend(void *argument)
{
    struct contender *self = argument;
    for (int round = 0; round < NUM_ROUNDS; round++) {
        pthread_barrier_wait(&self->contest->start);
        token_ring *ring = self->contest->ring;
        self->finished = token_ring_finish(ring, self->finish);
        self->wished = token_ring_request_cancel(ring, self->wish);
        CHECK(token_ring_state(ring) != TOKEN_OPEN);
        token_ring_release(ring);
        pthread_barrier_wait(&self->contest->end);
    }
    return NULL;
}

static void judge(const struct contest *contest, const struct contender *a,
                  const struct contender *b)
{
    CHECK(a->finished != b->finished);
    CHECK(a->wished != b->wished);
    CHECK(token_ring_state(contest->ring) == (a->finished ? a->finish : b->finish));
    CHECK(token_ring_cancel_state(contest->ring) == (a->wished ? a->wish : b->wish));
}

static void test_one_terminal_state(void)
{
    struct contest contest;
    struct contender a = {.contest = &contest, .finish = TOKEN_STOP, .wish = TOKEN_CANCELLED};
    struct contender b = {.contest = &contest, .finish = TOKEN_ERROR, .wish = TOKEN_DEADLINE};
    pthread_barrier_init(&contest.start, NULL, 3);
    pthread_barrier_init(&contest.end, NULL, 3);
    pthread_t threads[] = {start_thread(contend, &a), start_thread(contend, &b)};
    for (int round = 0; round < NUM_ROUNDS; round++) {
        contest.ring = token_ring_new(1);
        token_ring_retain(contest.ring);
        token_ring_retain(contest.ring);
        pthread_barrier_wait(&contest.start);
        pthread_barrier_wait(&contest.end);
        judge(&contest, &a, &b);
        token_ring_release(contest.ring);
    }
    join_thread(threads[0]);
    join_thread(threads[1]);
    pthread_barrier_destroy(&contest.start);
    pthread_barrier_destroy(&contest.end);
}

/* ---- the last owner frees the ring, whichever thread that is ---- */

static void *release_late(void *argument)
{
    token_ring *ring = argument;
    token_record record = record_of(1);
    CHECK(token_ring_push(ring, &record));
    token_ring_release(ring);
    return NULL;
}

static void test_last_owner_frees(void)
{
    for (int round = 0; round < 100; round++) {
        token_ring *ring = token_ring_new(1);
        pthread_t producer = start_thread(release_late, token_ring_retain(ring));
        token_ring_release(ring);
        join_thread(producer);
    }
}

/* ---- a stalled producer is always woken ---- */

struct stall {
    token_ring *ring;
    size_t num_needed;
    sem_t kicks;  /* consumer to producer: there is room */
    sem_t wakes;  /* producer to consumer: there are records */
    int num_waits;
};

static void wait_for_room(struct stall *stall)
{
    while (token_ring_free_space(stall->ring) < stall->num_needed) {
        if (!token_ring_mark_stalled(stall->ring))
            continue;
        stall->num_waits++;
        wait_for(&stall->kicks);
    }
}

static void *produce_when_kicked(void *argument)
{
    struct stall *stall = argument;
    int number = 0;
    while (number < NUM_RECORDS) {
        wait_for_room(stall);
        for (size_t i = 0; i < stall->num_needed; i++, number++) {
            token_record record = record_of(number);
            CHECK(token_ring_push(stall->ring, &record));
        }
        sem_post(&stall->wakes);
    }
    return NULL;
}

static void consume_and_kick(struct stall *stall)
{
    token_record records[4];
    for (int num_seen = 0; num_seen < NUM_RECORDS;) {
        wait_for(&stall->wakes);
        size_t num_popped;
        while ((num_popped = token_ring_pop(stall->ring, records, 4)) > 0) {
            for (size_t i = 0; i < num_popped; i++)
                check_record(&records[i], num_seen++);
            if (token_ring_take_stalled(stall->ring))
                sem_post(&stall->kicks);
        }
    }
}

static void test_no_wake_up_is_lost(size_t capacity, size_t num_needed)
{
    struct stall stall = {.ring = token_ring_new(capacity), .num_needed = num_needed};
    sem_init(&stall.kicks, 0, 0);
    sem_init(&stall.wakes, 0, 0);
    pthread_t producer = start_thread(produce_when_kicked, &stall);
    consume_and_kick(&stall);
    join_thread(producer);
    CHECK(stall.num_waits > 0);
    token_ring_release(stall.ring);
    sem_destroy(&stall.kicks);
    sem_destroy(&stall.wakes);
}

/* ---- the producer sees whatever the reader, or somebody for it, does ---- */

static void *renew_and_pop(void *argument)
{
    token_ring *ring = argument;
    token_record record;
    for (int number = 0; number < NUM_ROUNDS; number++) {
        token_ring_renew(ring);
        while (token_ring_pop(ring, &record, 1) == 0)
            sched_yield();
    }
    token_ring_release(ring);
    return NULL;
}

static void test_the_readers_activity_only_grows(void)
{
    token_ring *ring = token_ring_new(4);
    uint64_t activity = token_ring_reader_activity(ring);
    CHECK(activity == 0);
    pthread_t reader = start_thread(renew_and_pop, token_ring_retain(ring));
    for (int number = 0; number < NUM_ROUNDS; number++) {
        token_record record = record_of(number);
        while (!token_ring_push(ring, &record))
            sched_yield();
        uint64_t now = token_ring_reader_activity(ring);
        CHECK(now >= activity);
        activity = now;
    }
    join_thread(reader);
    CHECK(token_ring_reader_activity(ring) == 2 * NUM_ROUNDS);
    token_ring_release(ring);
}

int main(void)
{
    test_order_and_content(1);
    test_order_and_content(64);
    test_one_terminal_state();
    test_last_owner_frees();
    test_no_wake_up_is_lost(1, 1);
    test_no_wake_up_is_lost(4, 2);
    test_the_readers_activity_only_grows();
    puts("token_ring: ok");
    return 0;
}
