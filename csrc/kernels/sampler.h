/* sampler: the next token of a row of logits.
 *
 * Greedy rows (temperature 0) take the likeliest token, the first one on a tie. Others draw from
 *
 *   softmax(logits / temperature) -> top_k -> top_p -> min_p -> inverse of the CDF
 *
 * where the CDF runs in vocabulary order. top_k and top_p keep the heaviest tokens until their
 * number, or their mass, reaches the limit; among equals, the lowest ids. Nothing is sorted and
 * nothing is approximate, whatever the distribution.
 *
 * The random number of a token is a hash of (seed, output_index), by SplitMix64 (Steele, Lea,
 * Flood 2014): the same in whatever batch the row stands, and after a preemption.
 */
#ifndef REALTIME_SERVE_SAMPLER_H
#define REALTIME_SERVE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct sampling {
    float temperature; /* 0 is greedy */
    int32_t top_k;     /* 0 keeps all */
    float top_p;       /* 1 keeps all */
    float min_p;       /* 0 keeps all: tokens less likely than min_p times the likeliest go */
    uint64_t seed;
    uint64_t output_index;         /* tokens that the request has generated before this one */
    const int32_t *banned;         /* tokens that may not be chosen; in the vocabulary */
    int32_t num_banned;
    const uint32_t *allowed;       /* bit i % 32 of word i / 32: whether token i may be chosen;
                                      NULL allows all */
};

struct sampled {
    int32_t token_id; /* SAMPLED_NOTHING: the logits hold NaN or plus infinity, or no token that
                         may be chosen has a finite logit */
    float logprob;    /* under the model, before temperature, filters, bans and masks */
};

#define SAMPLED_NOTHING (-1)

/* Choose. `logits` has vocab_size floats and may be overwritten; `scratch` has
 * sampler_scratch_bytes(vocab_size) bytes, aligned to 64. */
typedef struct sampled sample_row(float *logits, int32_t vocab_size,
                                  const struct sampling *sampling, void *scratch);

size_t sampler_scratch_bytes(int32_t vocab_size);

/* The random number of one token, a multiple of 2^-53 in [0, 1). */
double sampler_uniform(uint64_t seed, uint64_t output_index);

#endif
