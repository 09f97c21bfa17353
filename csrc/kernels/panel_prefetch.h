/* panel_prefetch: weights that are wanted next, fetched from memory while a product computes.
 *
 * A product of many rows computes for longer than its weights take to arrive, one of few rows for
 * less. Fetched one after the other they would add up. So a product advances the prefetch of the
 * panels after its own by some lines at each of its steps, a step being GROUP_SIZE values along the
 * depth: then memory is never idle, and the next panels are in the second cache when they are
 * needed.
 */
#ifndef REALTIME_SERVE_PANEL_PREFETCH_H
#define REALTIME_SERVE_PANEL_PREFETCH_H

#include <stddef.h>
#include <stdint.h>

#define PREFETCH_LINE_BYTES 64
#define PREFETCH_ROWS 32 /* of a product for each step */

/* Nothing is fetched where next is not below end. */
struct panel_prefetch {
    const char *next;
    const char *end;
    int32_t lines_per_step;
};

/* So that num_bytes, a multiple of PREFETCH_LINE_BYTES, from `from` on are fetched in num_steps
 * steps. */
static inline struct panel_prefetch panel_prefetch_over(const void *from, size_t num_bytes,
                                                        size_t num_steps)
{
    size_t num_lines = num_bytes / PREFETCH_LINE_BYTES;
    const char *next = from;
    return (struct panel_prefetch){
        .next = next,
        .end = next + num_bytes,
        .lines_per_step = (int32_t)((num_lines + num_steps - 1) / num_steps),
    };
}

/* One step. NULL is nothing to fetch. */
static inline void panel_prefetch_advance(struct panel_prefetch *prefetch)
{
    if (prefetch == NULL)
        return;
    for (int32_t i = 0; i < prefetch->lines_per_step && prefetch->next < prefetch->end; i++) {
        __builtin_prefetch(prefetch->next, 0, 2);
        prefetch->next += PREFETCH_LINE_BYTES;
    }
}

#endif
