/* guest: a thread that another one waits for, and on which CPU it is.
 *
 * When another process takes a CPU, it takes it from some helper, for milliseconds and mostly in
 * the middle of its work. Who waits for that helper has a CPU and nothing to do: it watches the
 * helper's CPU time, and if that stands still, the helper becomes a guest of its own CPU until the
 * work is done. The scheduler alone would not do that: it moves a thread that has just run only
 * when milliseconds have passed.
 *
 * All of this is about speed only. Where the system refuses, nothing happens. A guest is let onto
 * the CPU that the waiting thread runs on, and afterwards onto those that the process's main thread
 * may use, but for that one; the main thread is never moved.
 */
#ifndef REALTIME_SERVE_GUEST_H
#define REALTIME_SERVE_GUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* Begins as zeros. */
struct guest {
    _Atomic clockid_t cpu_clock; /* 0 until guest_register() */
    int thread_id;
    int64_t seen_cpu_ns; /* the host's, as what follows */
    bool is_in;
};

/* The thread itself calls this, once. Until then it is never halted. */
void guest_register(struct guest *guest);

/* The CPU that the calling thread is on; -1 if the system does not say. */
int guest_current_cpu(void);

/* If the calling thread is on this CPU, it goes to another, where there is one. */
void guest_leave(int cpu);

/* ---- the host, the thread that waits: ---- */

/* Notes how much CPU time the thread has had. */
void guest_watch(struct guest *guest);

/* If the thread has had none since, lets it run on this CPU only, the host's own. */
void guest_take_in(struct guest *guest, int cpu);

/* If it was taken in, lets it run on all but this CPU. */
void guest_send_away(struct guest *guest, int cpu);

#endif
