/* A compute pool with few and many chunks, few and many threads, and two who want it. */
#define _GNU_SOURCE 1

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "kernels/compute_pool.h"

#define NUM_THREADS 3
#define NUM_PHASES 1500
#define MAX_CHUNKS 300
#define NUM_MEETINGS 100
#define NUM_STEPS 300

/* The thread sanitizer allows no threads after a fork. */
#if defined(__SANITIZE_THREAD__)
#define MAY_FORK false
#else
#define MAY_FORK true
#endif

/* Plain numbers, so that a sanitizer judges what orders them. */
struct phase {
    int num_chunks;
    int limit;
    int input;
    int outputs[MAX_CHUNKS];
    int num_runs[MAX_CHUNKS];
};

static void do_chunks(void *context, struct chunks chunks, int32_t member)
{
    struct phase *phase = context;
    CHECK(chunks.count > 0 && chunks.first >= 0);
    CHECK(chunks.first + chunks.count <= phase->num_chunks);
    CHECK(member >= 0 && member < phase->limit);
    CHECK(member < phase->num_chunks);
    for (int chunk = chunks.first; chunk < chunks.first + chunks.count; chunk++) {
        phase->num_runs[chunk]++;
        phase->outputs[chunk] = phase->input + chunk;
    }
}

static void run_phase(struct compute_pool *pool, struct phase *phase, int number)
{
    static const int sizes[] = {1, 2, 3, 7, 40, MAX_CHUNKS};
    phase->num_chunks = sizes[number % 6];
    phase->limit = 1 + number / 6 % compute_pool_num_threads(pool); /* each with each size */
    phase->input = number;
    memset(phase->num_runs, 0, sizeof phase->num_runs);
    compute_pool_limit(pool, phase->limit);
    CHECK(compute_pool_num_members(pool, phase->num_chunks) ==
          (phase->num_chunks < phase->limit ? phase->num_chunks : phase->limit));
    compute_pool_run(pool, do_chunks, phase, phase->num_chunks);
    for (int chunk = 0; chunk < phase->num_chunks; chunk++) {
        CHECK(phase->num_runs[chunk] == 1);
        CHECK(phase->outputs[chunk] == number + chunk);
    }
}

/* ---- each chunk is run once, and seen ---- */

static void test_each_chunk_is_run_once(int num_threads)
{
    struct phase phase;
    struct compute_pool *pool = compute_pool_new(num_threads);
    CHECK(pool != NULL && compute_pool_num_threads(pool) == num_threads);
    compute_pool_acquire(pool);
    for (int number = 0; number < NUM_PHASES; number++)
        run_phase(pool, &phase, number);
    compute_pool_run(pool, do_chunks, NULL, 0);
    compute_pool_release(pool);
    compute_pool_free(pool);
}

/* ---- helpers take part ---- */

struct meeting {
    _Atomic int num_present;
    _Atomic bool members[NUM_THREADS];
    int outputs[NUM_THREADS];
};

/* Waits for the others, but not for ever: a helper may come too late and miss the phase. Relaxed,
 * so that only the pool orders the outputs. */
static void meet(void *context, struct chunks chunks, int32_t member)
{
    struct meeting *meeting = context;
    atomic_fetch_add_explicit(&meeting->num_present, 1, memory_order_relaxed);
    atomic_store_explicit(&meeting->members[member], true, memory_order_relaxed);
    for (int i = 0; i < 10000; i++) {
        if (atomic_load_explicit(&meeting->num_present, memory_order_relaxed) == NUM_THREADS)
            break;
        sched_yield();
    }
    for (int i = 0; i < chunks.count; i++)
        meeting->outputs[chunks.first + i] = chunks.first + i + 1;
}

static bool all_met(struct compute_pool *pool)
{
    struct meeting meeting = {0};
    compute_pool_run(pool, meet, &meeting, NUM_THREADS);
    int num_members = 0;
    for (int i = 0; i < NUM_THREADS; i++) {
        CHECK(meeting.outputs[i] == i + 1);
        num_members += atomic_load(&meeting.members[i]);
    }
    return num_members == NUM_THREADS;
}

static void test_all_members_take_part(void)
{
    struct compute_pool *pool = compute_pool_new(NUM_THREADS);
    compute_pool_acquire(pool);
    for (int num_meetings = 0; num_meetings < NUM_MEETINGS;) {
        num_meetings += all_met(pool);
        if (num_meetings % 4 == 0)
            usleep(200); /* long enough for helpers to fall asleep */
    }
    compute_pool_release(pool);
    compute_pool_free(pool);
}

static void run_limited_step(struct compute_pool *pool, int32_t limit)
{
    struct phase phase = {.num_chunks = MAX_CHUNKS, .limit = limit};
    compute_pool_acquire(pool);
    compute_pool_limit(pool, limit);
    CHECK(compute_pool_num_members(pool, MAX_CHUNKS) == limit);
    compute_pool_run(pool, do_chunks, &phase, MAX_CHUNKS);
    compute_pool_release(pool);
}

static void test_a_limit_ends_with_its_step(void)
{
    struct compute_pool *pool = compute_pool_new(NUM_THREADS);
    for (int round = 0; round < NUM_MEETINGS; round++) {
        run_limited_step(pool, 1 + round % (NUM_THREADS - 1));
        compute_pool_acquire(pool);
        CHECK(compute_pool_num_members(pool, NUM_THREADS) == NUM_THREADS);
        while (!all_met(pool))
            continue;
        compute_pool_release(pool);
    }
    compute_pool_free(pool);
}

/* ---- members begin with their own shares ---- */

#define SHARE_CHUNKS 40

struct beginning {
    int num_members;
    _Atomic int num_present;
    _Atomic bool somebody_left; /* before all were present */
    struct chunks taken[NUM_THREADS]; /* first */
};

/* Keeps what a member takes first until all others have taken something as well, so that nobody
 * can have finished its share; but not for ever, as above. */
static void begin(void *context, struct chunks chunks, int32_t member)
{
    struct beginning *beginning = context;
    if (beginning->taken[member].count > 0)
        return;
    beginning->taken[member] = chunks;
    atomic_fetch_add_explicit(&beginning->num_present, 1, memory_order_relaxed);
    for (int i = 0; i < 10000; i++) {
        if (atomic_load_explicit(&beginning->num_present, memory_order_relaxed) ==
            beginning->num_members)
            return;
        sched_yield();
    }
    atomic_store_explicit(&beginning->somebody_left, true, memory_order_relaxed);
}

/* False if not all were there together. Adds how many members began in front of their own share. */
static bool all_began(struct compute_pool *pool, int num_members, int *num_own)
{
    struct beginning beginning = {.num_members = num_members};
    compute_pool_limit(pool, num_members);
    compute_pool_run(pool, begin, &beginning, num_members * SHARE_CHUNKS);
    if (atomic_load(&beginning.somebody_left))
        return false;
    for (int member = 0; member < num_members; member++) {
        CHECK(beginning.taken[member].count < SHARE_CHUNKS); /* the rest is for whoever is free */
        *num_own += beginning.taken[member].first == member * SHARE_CHUNKS;
    }
    return true;
}

/* Most of them: a helper that spins may find another's share a moment before its own is there. */
static void test_members_begin_with_their_own_shares(void)
{
    int num_own = 0, num_beginnings = 0;
    struct compute_pool *pool = compute_pool_new(NUM_THREADS);
    compute_pool_acquire(pool);
    for (int round = 0; round < NUM_MEETINGS;) {
        int num_members = NUM_THREADS - round % 2;
        if (all_began(pool, num_members, &num_own)) {
            num_beginnings += num_members;
            round++;
        }
        usleep(200); /* helpers that fall asleep wake when all shares are there */
    }
    CHECK(num_own > num_beginnings * 3 / 4);
    compute_pool_release(pool);
    compute_pool_free(pool);
}

/* ---- a step has the pool for itself, and all of its threads ---- */

struct user {
    struct compute_pool *pool;
    struct phase *phase; /* that of all users */
    int first_number;
};

static void *run_steps(void *argument)
{
    struct user *self = argument;
    for (int step = 0; step < NUM_STEPS; step++) {
        compute_pool_acquire(self->pool);
        self->phase->limit = NUM_THREADS;
        self->phase->num_chunks = NUM_THREADS;
        compute_pool_run(self->pool, do_chunks, self->phase, NUM_THREADS);
        for (int i = 0; i < 3; i++)
            run_phase(self->pool, self->phase, self->first_number + 3 * step + i);
        compute_pool_release(self->pool);
    }
    return NULL;
}

static void test_steps_of_two_threads_exclude_each_other(void)
{
    static struct phase phase;
    struct compute_pool *pool = compute_pool_new(NUM_THREADS);
    struct user a = {.pool = pool, .phase = &phase, .first_number = 0};
    struct user b = {.pool = pool, .phase = &phase, .first_number = 1000000};
    pthread_t threads[] = {start_thread(run_steps, &a), start_thread(run_steps, &b)};
    join_thread(threads[0]);
    join_thread(threads[1]);
    compute_pool_free(pool);
}

/* ---- a pool can be freed at any time between steps ---- */

static void test_free_while_helpers_start_spin_or_sleep(void)
{
    struct phase phase;
    for (int round = 0; round < 30; round++) {
        struct compute_pool *pool = compute_pool_new(NUM_THREADS);
        if (round % 3 > 0)
            run_phase(pool, &phase, round);
        if (round % 3 > 1)
            usleep(1000);
        compute_pool_free(pool);
    }
    compute_pool_free(NULL);
}

/* ---- a forked child frees its parent's pool and makes its own ---- */

static void use_own_pool(struct compute_pool *parents)
{
    struct phase phase;
    compute_pool_free(parents);
    struct compute_pool *pool = compute_pool_new(NUM_THREADS);
    compute_pool_acquire(pool);
    for (int number = 0; number < 100; number++)
        run_phase(pool, &phase, number);
    compute_pool_release(pool);
    compute_pool_free(pool);
}

static void *wait_for_turn(void *argument)
{
    compute_pool_acquire(argument);
    compute_pool_release(argument);
    return NULL;
}

static void test_child_has_its_own_pool(void)
{
    int status;
    struct compute_pool *pool = compute_pool_new(NUM_THREADS);
    compute_pool_acquire(pool);
    pthread_t waiting = start_thread(wait_for_turn, pool);
    usleep(1000);
    pid_t child = fork();
    if (child == 0) {
        use_own_pool(pool);
        _exit(0); /* what the parent allocated is no leak of the child's */
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    compute_pool_release(pool);
    join_thread(waiting);
    compute_pool_free(pool);
}

int main(void)
{
    test_each_chunk_is_run_once(1);
    test_each_chunk_is_run_once(2);
    test_each_chunk_is_run_once(NUM_THREADS);
    test_all_members_take_part();
    test_a_limit_ends_with_its_step();
    test_members_begin_with_their_own_shares();
    test_steps_of_two_threads_exclude_each_other();
    test_free_while_helpers_start_spin_or_sleep();
    if (MAY_FORK)
        test_child_has_its_own_pool();
    puts("compute_pool: ok");
    return 0;
}
