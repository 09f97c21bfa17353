/* Deadlines: instants on CLOCK_MONOTONIC, in nanoseconds.
 *
 * Every wait of this package ends at a deadline rather than after a timeout, so that a wait
 * cut into slices, or woken for nothing, still ends on time. A wall clock that is set back
 * or forward changes nothing. Linux only; all functions may be called from any thread, with
 * or without the GIL, and none of them blocks but deadline_wait().
 */
#ifndef REALTIME_SERVE_DEADLINE_H
#define REALTIME_SERVE_DEADLINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define DEADLINE_NEVER INT64_MAX /* wait without a limit */
#define DEADLINE_PAST INT64_C(0) /* do not wait */

/* Longest that a wait in the main thread keeps a Ctrl-C unanswered. */
#define DEADLINE_SLICE_NS INT64_C(50000000)

/* The instant timeout_s seconds from now. Infinity, or more than the clock can count, gives
 * DEADLINE_NEVER; zero, a negative number and NaN give DEADLINE_PAST. */
int64_t deadline_after(double timeout_s);

/* True once the instant is reached. */
bool deadline_passed(int64_t deadline_ns);

/* Until when one uninterrupted wait may last: the deadline itself, but in the process's main
 * thread at most DEADLINE_SLICE_NS from now, since only there can a signal handler run. */
int64_t deadline_slice(int64_t deadline_ns);

/* Makes a condition that deadline_wait() can wait on. Returns 0, or an errno value, and then
 * there is nothing to destroy. */
int deadline_cond_init(pthread_cond_t *cond);

/* Waits for cond with lock held, as pthread_cond_wait() does, until the deadline at most.
 * May wake for nothing: the caller checks its condition and deadline_passed() in a loop. */
void deadline_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns);

#endif
