/* spin: waiting without sleeping, for a bounded time.
 *
 *     struct spin spin = {0};
 *     while (!condition)
 *         if (!spin_on(&spin))
 *             sleep until the condition holds;
 */
#ifndef REALTIME_SERVE_SPIN_H
#define REALTIME_SERVE_SPIN_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* A phase follows the last one within microseconds, and to be woken takes about 50: who sleeps
 * sooner misses whole phases, who spins longer wastes a CPU that others may want. */
#define SPIN_NS INT64_C(50000)

/* A look at the clock costs about as much as a pause. */
#define SPIN_PAUSES_PER_LOOK 16

struct spin {
    uint32_t num_pauses;
    int64_t start_ns; /* 0 until the first look at the clock */
};

static inline void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Pauses; false once the spin has lasted SPIN_NS. */
static inline bool spin_on(struct spin *spin)
{
    spin_pause();
    if (++spin->num_pauses % SPIN_PAUSES_PER_LOOK != 0)
        return true;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (spin->start_ns == 0)
        spin->start_ns = now_ns;
    return now_ns - spin->start_ns < SPIN_NS;
}

#endif
