#define _GNU_SOURCE 1 /* syscall */

#include "compute_pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "../deadline.h"
#include "../native_thread.h"
#include "guest.h"
#include "spin.h"
#include "turns.h"

/* What one thread writes while another spins on its own words must lie on another line. */
#define CACHE_LINE 64

#define HELPER_STACK_BYTES ((size_t)1024 * 1024) /* kernels keep their scratch elsewhere */

/* How long a helper must have had no CPU time until it counts as halted. */
#define WATCH_NS 50000

/* The memory orders that the data race detector can judge by what `work` reads and writes. The
 * tests weaken them, one at a time, to prove that it would notice. Both are sequentially
 * consistent because each is one half of "I wrote; do you sleep?" against "I sleep; did you
 * write?": one of the two sides must see what the other wrote. */
#ifndef COMPUTE_POOL_PUBLISH_ORDER
#define COMPUTE_POOL_PUBLISH_ORDER memory_order_seq_cst
#endif
#ifndef COMPUTE_POOL_DONE_ORDER
#define COMPUTE_POOL_DONE_ORDER memory_order_seq_cst
#endif

struct helper {
    alignas(CACHE_LINE) struct chunk_range range;
    alignas(CACHE_LINE) _Atomic uint32_t asleep; /* futex: 1 while it sleeps */
    struct compute_pool *pool;
    native_thread *thread;
    int32_t member;
    struct guest guest;
};

struct compute_pool {
    alignas(CACHE_LINE) struct chunk_range range; /* the caller's */

    alignas(CACHE_LINE) compute_work *work; /* the phase */
    void *context;
    _Atomic int caller_cpu; /* when it began */
    _Atomic bool closing;

    alignas(CACHE_LINE) _Atomic uint32_t done; /* futex: chunks that helpers have finished */
    _Atomic bool caller_asleep;

    alignas(CACHE_LINE) int32_t limit; /* the holder's */
    int32_t num_threads;
    int32_t num_ranges; /* num_threads when all helpers have started; they look at it before */
    pid_t process; /* where the helpers are */
    struct turns turns;

    struct helper helpers[]; /* members 1 to num_threads - 1 */
};

/* ---- sleeping ---- */

static void futex_wait(_Atomic uint32_t *word, uint32_t expected, const struct timespec *timeout)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1);
}

/* ---- chunks ---- */

static struct chunk_range *range_of(struct compute_pool *pool, int32_t member)
{
    return member == 0 ? &pool->range : &pool->helpers[member - 1].range;
}

static struct chunks take_chunks(struct compute_pool *pool, int32_t member)
{
    struct chunks taken = chunk_range_take(range_of(pool, member), member, true);
    for (int32_t i = 1; taken.count == 0 && i < pool->num_ranges; i++) {
        int32_t other = (member + i) % pool->num_ranges;
        taken = chunk_range_take(range_of(pool, other), member, false);
    }
    return taken;
}

/* Takes chunks and works on them until none is left; gives their number. The phase is read only
 * after chunks of it were taken, since it stays as it is only until all are done. */
static uint32_t take_part(struct compute_pool *pool, int32_t member)
{
    uint32_t num_done = 0;
    for (;;) {
        struct chunks taken = take_chunks(pool, member);
        if (taken.count == 0)
            return num_done;
        pool->work(pool->context, taken, member);
        num_done += (uint32_t)taken.count;
    }
}

static bool has_chunks(struct compute_pool *pool, int32_t member)
{
    for (int32_t i = 0; i < pool->num_ranges; i++) {
        uint64_t word = atomic_load(&range_of(pool, i)->word);
        if (chunk_range_available(word, member) > 0)
            return true;
    }
    return false;
}

/* ---- helpers ---- */

static bool has_cause(struct helper *helper)
{
    struct compute_pool *pool = helper->pool;
    return has_chunks(pool, helper->member) || atomic_load(&pool->closing);
}

static void sleep_until_woken(struct helper *helper)
{
    atomic_store(&helper->asleep, 1);
    while (atomic_load(&helper->asleep) == 1 && !has_cause(helper))
        futex_wait(&helper->asleep, 1, NULL);
    atomic_store(&helper->asleep, 0);
}

/* False when the pool closes. */
static bool wait_for_chunks(struct helper *helper)
{
    struct spin spin = {0};
    while (!has_cause(helper))
        if (!spin_on(&spin))
            sleep_until_woken(helper);
    return !atomic_load(&helper->pool->closing);
}

static void report_done(struct compute_pool *pool, uint32_t num_chunks)
{
    atomic_fetch_add_explicit(&pool->done, num_chunks, COMPUTE_POOL_DONE_ORDER);
    if (atomic_load(&pool->caller_asleep))
        futex_wake(&pool->done);
}

static void help(void *argument)
{
    struct helper *helper = argument;
    struct compute_pool *pool = helper->pool;
    guest_register(&helper->guest);
    while (wait_for_chunks(helper)) {
        /* On the caller's CPU it would keep the caller from its work by spinning; and that is where
         * the scheduler wakes it while another process has the other CPU. */
        guest_leave(atomic_load_explicit(&pool->caller_cpu, memory_order_relaxed));
        uint32_t num_done = take_part(pool, helper->member);
        if (num_done > 0)
            report_done(pool, num_done);
    }
}

static void wake(struct helper *helper)
{
    if (atomic_load(&helper->asleep) == 1 && atomic_exchange(&helper->asleep, 0) == 1)
        futex_wake(&helper->asleep);
}

/* ---- the caller ---- */

static void watch_helpers(struct compute_pool *pool)
{
    for (int32_t i = 0; i < pool->num_threads - 1; i++)
        guest_watch(&pool->helpers[i].guest);
}

static void take_in_halted_helpers(struct compute_pool *pool, int cpu)
{
    for (int32_t i = 0; i < pool->num_threads - 1; i++)
        if (atomic_load(&pool->helpers[i].asleep) == 0)
            guest_take_in(&pool->helpers[i].guest, cpu);
}

static void send_guests_away(struct compute_pool *pool, int cpu)
{
    for (int32_t i = 0; i < pool->num_threads - 1; i++)
        guest_send_away(&pool->helpers[i].guest, cpu);
}

static void sleep_until_done(struct compute_pool *pool, uint32_t num_chunks)
{
    static const struct timespec watch = {.tv_nsec = WATCH_NS};
    int cpu = guest_current_cpu();
    uint32_t done;
    atomic_store(&pool->caller_asleep, true);
    while ((done = atomic_load(&pool->done)) != num_chunks) {
        watch_helpers(pool);
        futex_wait(&pool->done, done, &watch);
        if (atomic_load(&pool->done) == done)
            take_in_halted_helpers(pool, cpu);
    }
    atomic_store(&pool->caller_asleep, false);
    send_guests_away(pool, cpu);
}

/* Waits until helpers have done so many chunks. */
static void wait_until_done(struct compute_pool *pool, uint32_t num_chunks)
{
    struct spin spin = {0};
    while (atomic_load(&pool->done) != num_chunks)
        if (!spin_on(&spin))
            sleep_until_done(pool, num_chunks);
}

static void run_alone(compute_work *work, void *context, int32_t num_chunks)
{
    if (num_chunks > 0)
        work(context, (struct chunks){.first = 0, .count = num_chunks}, 0);
}

/* Once a range is stored, its chunks can be taken: everything else comes before. */
static void publish(struct compute_pool *pool, compute_work *work, void *context,
                    int32_t num_chunks, int32_t num_members)
{
    pool->work = work;
    pool->context = context;
    atomic_store_explicit(&pool->caller_cpu, guest_current_cpu(), memory_order_relaxed);
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    for (int32_t member = num_members - 1; member >= 0; member--) {
        struct chunks share = chunk_range_share(num_chunks, member, num_members);
        atomic_store_explicit(&range_of(pool, member)->word,
                              chunk_range_word(num_members, share.first, share.first + share.count),
                              COMPUTE_POOL_PUBLISH_ORDER);
    }
}

static void wake_helpers(struct compute_pool *pool, int32_t num_members)
{
    for (int32_t member = 1; member < num_members; member++)
        wake(&pool->helpers[member - 1]);
}

void compute_pool_run(struct compute_pool *pool, compute_work *work, void *context,
                      int32_t num_chunks)
{
    int32_t num_members = compute_pool_num_members(pool, num_chunks);
    if (num_members <= 1) {
        run_alone(work, context, num_chunks);
        return;
    }
    publish(pool, work, context, num_chunks, num_members);
    wake_helpers(pool, num_members);
    uint32_t num_done = take_part(pool, 0);
    wait_until_done(pool, (uint32_t)num_chunks - num_done);
}

/* ---- turns ---- */

void compute_pool_limit(struct compute_pool *pool, int32_t num_threads)
{
    pool->limit = num_threads;
}

int32_t compute_pool_num_members(const struct compute_pool *pool, int32_t num_chunks)
{
    return num_chunks < pool->limit ? num_chunks : pool->limit;
}

void compute_pool_acquire(struct compute_pool *pool)
{
    turns_begin(&pool->turns);
}

void compute_pool_release(struct compute_pool *pool)
{
    compute_pool_limit(pool, pool->num_threads);
    turns_end(&pool->turns);
}

/* ---- life ---- */

int32_t compute_pool_num_threads(const struct compute_pool *pool)
{
    return pool->num_threads;
}

/* Returns 0, or an errno value. The pool counts the helpers that have started. */
static int start_helper(struct compute_pool *pool)
{
    struct helper *helper = &pool->helpers[pool->num_threads - 1];
    helper->pool = pool;
    helper->member = pool->num_threads;
    helper->thread = native_thread_new("compute", HELPER_STACK_BYTES);
    if (helper->thread == NULL)
        return errno;
    int status = native_thread_start(helper->thread, help, helper);
    if (status != 0)
        native_thread_release(helper->thread);
    else
        pool->num_threads++;
    return status;
}

/* A pool of the caller alone, with room for helpers; NULL, with errno set, if it cannot be. */
static struct compute_pool *new_pool(int32_t max_threads)
{
    size_t size = sizeof(struct compute_pool) + (size_t)(max_threads - 1) * sizeof(struct helper);
    struct compute_pool *pool = aligned_alloc(CACHE_LINE, size);
    if (pool == NULL)
        return NULL;
    memset(pool, 0, size);
    pool->num_threads = 1;
    pool->num_ranges = max_threads;
    pool->process = getpid();
    int status = turns_init(&pool->turns);
    if (status == 0)
        return pool;
    free(pool);
    errno = status;
    return NULL;
}

struct compute_pool *compute_pool_new(int32_t num_threads)
{
    struct compute_pool *pool = new_pool(num_threads);
    if (pool == NULL)
        return NULL;
    int status = 0;
    while (pool->num_threads < num_threads && status == 0)
        status = start_helper(pool);
    if (status != 0) {
        compute_pool_free(pool);
        errno = status;
        return NULL;
    }
    compute_pool_limit(pool, num_threads);
    return pool;
}

static void stop_helper(struct helper *helper)
{
    wake(helper);
    native_thread_join(helper->thread, DEADLINE_NEVER);
    native_thread_release(helper->thread);
}

void compute_pool_free(struct compute_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->closing, true);
    for (int32_t member = 1; member < pool->num_threads; member++)
        stop_helper(&pool->helpers[member - 1]);
    /* In a forked child, the parent's threads that waited for a turn seem to wait for ever. */
    if (pool->process == getpid())
        turns_destroy(&pool->turns);
    free(pool);
}
