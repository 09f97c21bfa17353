#define _GNU_SOURCE 1 /* syscall */

#include "deadline.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

/* Half of what int64_t counts, 146 years: sums with the clock cannot overflow below it. */
#define MAX_TIMEOUT_NS (INT64_MAX / 2)

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* gettid() itself needs glibc 2.30. */
static bool in_main_thread(void)
{
    return syscall(SYS_gettid) == getpid();
}

int64_t deadline_after(double timeout_s)
{
    if (!(timeout_s > 0.0))
        return DEADLINE_PAST;
    double timeout_ns = timeout_s * (double)NS_PER_S;
    if (timeout_ns >= (double)MAX_TIMEOUT_NS)
        return DEADLINE_NEVER;
    return now_ns() + (int64_t)timeout_ns;
}

bool deadline_passed(int64_t deadline_ns)
{
    if (deadline_ns == DEADLINE_PAST)
        return true;
    return deadline_ns != DEADLINE_NEVER && deadline_ns <= now_ns();
}

int64_t deadline_slice(int64_t deadline_ns)
{
    if (deadline_ns == DEADLINE_PAST || !in_main_thread())
        return deadline_ns;
    int64_t slice_ns = now_ns() + DEADLINE_SLICE_NS;
    return slice_ns < deadline_ns ? slice_ns : deadline_ns;
}

int deadline_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    int status = pthread_condattr_init(&attributes);
    if (status != 0)
        return status;
    status = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (status == 0)
        status = pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
    return status;
}

void deadline_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns)
{
    if (deadline_ns == DEADLINE_NEVER) {
        pthread_cond_wait(cond, lock);
        return;
    }
    struct timespec until = {
        .tv_sec = (time_t)(deadline_ns / NS_PER_S),
        .tv_nsec = (long)(deadline_ns % NS_PER_S),
    };
    pthread_cond_timedwait(cond, lock, &until);
}
