/* samples: many durations, and what share of them lies below which. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include <stddef.h>
#include <stdint.h>

/* All zero is empty. */
struct samples {
    uint32_t *values_us;
    size_t length;
    size_t capacity;
};

/* Adds one; ends the program if there is no memory for it. */
void samples_add(struct samples *samples, uint64_t duration_ns);

/* Puts them in order, as samples_percentile_us needs them. */
void samples_sort(struct samples *samples);

/* The value below which percent of them lie, interpolated linearly; NAN if there are none. */
double samples_percentile_us(const struct samples *samples, double percent);

void samples_free(struct samples *samples);

#endif
