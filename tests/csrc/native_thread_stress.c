/* Native threads started, joined by several, joined too early, and abandoned. */
#define _GNU_SOURCE 1

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "check.h"
#include "deadline.h"
#include "native_thread.h"

#define STACK_BYTES ((size_t)1024 * 1024)
#define NUM_ROUNDS 200

struct job {
    native_thread *thread;
    sem_t may_end;
    int result; /* plain, so that a sanitizer judges whether a join orders it */
};

static void work(void *argument)
{
    struct job *job = argument;
    wait_for(&job->may_end);
    job->result = 42;
}

static void start_job(struct job *job)
{
    job->result = 0;
    sem_init(&job->may_end, 0, 0);
    job->thread = native_thread_new("worker", STACK_BYTES);
    CHECK(job->thread != NULL && !native_thread_is_started(job->thread));
    CHECK(native_thread_start(job->thread, work, job) == 0);
    CHECK(native_thread_start(job->thread, work, job) == EALREADY);
}

static void end_job(struct job *job)
{
    native_thread_release(job->thread);
    sem_destroy(&job->may_end);
}

/* ---- several may join, and each sees what the thread did ---- */

static void *join_job(void *argument)
{
    const struct job *job = argument;
    CHECK(native_thread_join(job->thread, DEADLINE_NEVER));
    CHECK(job->result == 42);
    return NULL;
}

static void test_all_joiners_see_the_result(void)
{
    for (int round = 0; round < NUM_ROUNDS; round++) {
        struct job job;
        start_job(&job);
        pthread_t joiners[] = {start_thread(join_job, &job), start_thread(join_job, &job)};
        sem_post(&job.may_end);
        join_job(&job);
        join_thread(joiners[0]);
        join_thread(joiners[1]);
        CHECK(!native_thread_is_alive(job.thread) && native_thread_id(job.thread) > 0);
        end_job(&job);
    }
}

/* ---- a join that is over too early changes nothing ---- */

static void test_early_join_returns_false(void)
{
    struct job job;
    start_job(&job);
    CHECK(!native_thread_join(job.thread, DEADLINE_PAST));
    CHECK(!native_thread_join(job.thread, deadline_after(0.01)));
    CHECK(native_thread_is_alive(job.thread));
    sem_post(&job.may_end);
    CHECK(native_thread_join(job.thread, DEADLINE_NEVER));
    CHECK(native_thread_join(job.thread, DEADLINE_PAST));
    end_job(&job);
}

/* ---- an abandoned thread frees itself, also when it drops the last owner's reference ---- */

struct abandoned {
    native_thread *thread;
    sem_t started;
    sem_t done;
};

static void release_itself(void *argument)
{
    struct abandoned *self = argument;
    wait_for(&self->started);
    CHECK(native_thread_is_current(self->thread));
    native_thread_release(self->thread);
    sem_post(&self->done);
}

static void test_thread_may_release_itself(void)
{
    static struct abandoned abandoned; /* static: its last sem_post() may still be returning */
    sem_init(&abandoned.started, 0, 0);
    sem_init(&abandoned.done, 0, 0);
    for (int round = 0; round < NUM_ROUNDS; round++) {
        abandoned.thread = native_thread_new("abandoned", STACK_BYTES);
        CHECK(native_thread_start(abandoned.thread, release_itself, &abandoned) == 0);
        sem_post(&abandoned.started);
        wait_for(&abandoned.done);
    }
}

/* ---- signals stay with the other threads ---- */

static void read_mask(void *argument)
{
    pthread_sigmask(SIG_BLOCK, NULL, argument);
}

static void test_signals_but_faults_are_blocked(void)
{
    sigset_t inside;
    sigset_t outside;
    native_thread *thread = native_thread_new("masked", STACK_BYTES);
    CHECK(native_thread_start(thread, read_mask, &inside) == 0);
    CHECK(native_thread_join(thread, DEADLINE_NEVER));
    pthread_sigmask(SIG_BLOCK, NULL, &outside);
    CHECK(sigismember(&inside, SIGINT) && sigismember(&inside, SIGTERM));
    CHECK(!sigismember(&inside, SIGSEGV) && !sigismember(&inside, SIGABRT));
    CHECK(!sigismember(&outside, SIGINT) && !sigismember(&outside, SIGTERM));
    native_thread_release(thread);
}

/* ---- a stack that cannot be had is reported, and the thread can be tried again ---- */

static void test_start_that_fails_can_be_repeated(void)
{
    sigset_t unused;
    native_thread *thread = native_thread_new("tiny", 1);
    CHECK(native_thread_start(thread, read_mask, &unused) == EINVAL);
    CHECK(native_thread_start(thread, read_mask, &unused) == EINVAL);
    CHECK(!native_thread_is_started(thread));
    native_thread_release(thread);
}

int main(void)
{
    test_all_joiners_see_the_result();
    test_early_join_returns_false();
    test_thread_may_release_itself();
    test_signals_but_faults_are_blocked();
    test_start_that_fails_can_be_repeated();
    puts("native_thread: ok");
    return 0;
}
