/* prefetch: reading weights from memory just before they are used.
 *
 * The first product with a panel asks for its next step, 2 KiB, before it computes a step: all
 * lines at once and in order. The hardware's prefetchers, which read further ahead, then keep
 * pace. They lose track if the lines are asked for earlier or in between the loads: 4 KiB ahead,
 * one row by AMX tiles took a sixth longer on Sapphire Rapids, and four rows in float32, 8 KiB
 * ahead, half as long again. Nothing is asked for past the panel's end: the next panel may be
 * another thread's.
 */
#ifndef REALTIME_SERVE_PREFETCH_H
#define REALTIME_SERVE_PREFETCH_H

#define PREFETCH_STEP_BYTES 2048
#define PREFETCH_LINE_BYTES 64

/* To the first cache. */
static inline __attribute__((always_inline)) void prefetch_step(const void *step)
{
    const char *lines = step;
    for (int i = 0; i < PREFETCH_STEP_BYTES; i += PREFETCH_LINE_BYTES)
        __builtin_prefetch(lines + i, 0, 3);
}

/* To the second cache only: what no other rows will use arrives 4 % faster there. */
static inline __attribute__((always_inline)) void prefetch_step_once(const void *step)
{
    const char *lines = step;
    for (int i = 0; i < PREFETCH_STEP_BYTES; i += PREFETCH_LINE_BYTES)
        __builtin_prefetch(lines + i, 0, 2);
}

#endif
