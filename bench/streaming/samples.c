#include "samples.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIRST_CAPACITY = 65536 };

static void grow(struct samples *samples)
{
    size_t capacity = samples->capacity == 0 ? FIRST_CAPACITY : 2 * samples->capacity;
    uint32_t *values_us = realloc(samples->values_us, capacity * sizeof *values_us);
    if (values_us == NULL) {
        perror("realloc");
        exit(2);
    }
    samples->values_us = values_us;
    samples->capacity = capacity;
}

void samples_add(struct samples *samples, uint64_t duration_ns)
{
    uint64_t duration_us = duration_ns / 1000;
    if (samples->length == samples->capacity)
        grow(samples);
    samples->values_us[samples->length++] =
        duration_us > UINT32_MAX ? UINT32_MAX : (uint32_t)duration_us;
}

static int compare(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

void samples_sort(struct samples *samples)
{
    if (samples->length > 0)
        qsort(samples->values_us, samples->length, sizeof *samples->values_us, compare);
}

double samples_percentile_us(const struct samples *samples, double percent)
{
    if (samples->length == 0)
        return NAN;
    double position = (double)(samples->length - 1) * percent / 100;
    size_t below = (size_t)position;
    size_t above = below + 1 < samples->length ? below + 1 : below;
    double low = samples->values_us[below], high = samples->values_us[above];
    return low + (high - low) * (position - (double)below);
}

void samples_free(struct samples *samples)
{
    free(samples->values_us);
    *samples = (struct samples){0};
}
