/* sampler_scratch: the memory of a sampler; the same for every CPU level.
 *
 * A row of logits is handled in groups. The logits of a group are vectors of the level's lanes,
 * and lane i of all of them is a column: groups have as many columns as the level has lanes.
 */
#ifndef REALTIME_SERVE_SAMPLER_SCRATCH_H
#define REALTIME_SERVE_SAMPLER_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

#define SAMPLER_GROUP 512 /* logits: enough for columns of 32, few enough for the first cache */
#define SAMPLER_MAX_LANES 16
#define SAMPLER_MIN_LANES 4

/* Where each array begins, in bytes; multiples of 64. Arrays of tokens are as long as the
 * vocabulary, rounded up to whole groups. */
struct sampler_layout {
    size_t last_group; /* float[group]: the logits of the last group, if it is not whole */
    size_t peaks;      /* float[column]: see struct survey */
    size_t heaviest;   /* float[column] */
    size_t masses;     /* float[column] */
    size_t prefixes;   /* double[group] */
    size_t candidates; /* int32_t[vector] */
    size_t weights;    /* float[token] */
    size_t remaining;  /* float[token], and one vector more */
    size_t num_bytes;
};

static inline int32_t sampler_num_groups(int32_t vocab_size)
{
    return vocab_size / SAMPLER_GROUP + (vocab_size % SAMPLER_GROUP != 0);
}

static inline size_t sampler_take(size_t *end, size_t num_bytes)
{
    size_t begin = *end;
    *end += (num_bytes + 63) / 64 * 64;
    return begin;
}

static inline struct sampler_layout sampler_layout(int32_t vocab_size)
{
    size_t num_groups = (size_t)sampler_num_groups(vocab_size);
    size_t num_columns = (num_groups + 3) * SAMPLER_MAX_LANES;
    size_t num_tokens = num_groups * SAMPLER_GROUP;
    size_t end = 0;
    struct sampler_layout layout;
    layout.last_group = sampler_take(&end, SAMPLER_GROUP * sizeof(float));
    layout.peaks = sampler_take(&end, num_columns * sizeof(float));
    layout.heaviest = sampler_take(&end, num_columns * sizeof(float));
    layout.masses = sampler_take(&end, num_columns * sizeof(float));
    layout.prefixes = sampler_take(&end, num_groups * sizeof(double));
    layout.candidates = sampler_take(&end, num_tokens / SAMPLER_MIN_LANES * sizeof(int32_t));
    layout.weights = sampler_take(&end, num_tokens * sizeof(float));
    layout.remaining = sampler_take(&end, (num_tokens + 4 * SAMPLER_MAX_LANES) * sizeof(float));
    layout.num_bytes = end;
    return layout;
}

#endif
