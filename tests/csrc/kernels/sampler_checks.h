/* sampler_checks: the sampler against a full sort in double, for the tests of its parts.
 *
 * Weights are taken as the kernels compute them, in float32; everything after that is exact in the
 * reference. The kernels add up in another order: where the random number, or a limit of top_p, is
 * as near to a border as rounding may move it, both sides are right.
 */
#ifndef SAMPLER_CHECKS_H
#define SAMPLER_CHECKS_H

#include "kernel_test.h"

#include <float.h>

#include "sampler_row.h"

/* Of a mass: float32 sums of four vectors, and of the columns of a survey. */
#define ROUNDING 1e-6

enum { MAX_VOCAB = 50000 };

/* ---- the reference ---- */

struct reference {
    int32_t vocab_size;
    double weights[MAX_VOCAB]; /* of the tokens that are kept */
    double mass;
};

static struct reference reference;

static inline float exponential(float x)
{
    float lanes[VEC_LANES];
    vec_store(lanes, vec_exp(vec_set1(x)));
    return lanes[0];
}

static inline int by_weight(const void *left, const void *right)
{
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    if (reference.weights[a] != reference.weights[b])
        return reference.weights[a] < reference.weights[b] ? 1 : -1;
    return a < b ? -1 : 1;
}

static inline double mass_of_reference(void)
{
    double mass = 0;
    for (int32_t i = 0; i < reference.vocab_size; i++)
        mass += reference.weights[i];
    return mass;
}

static inline void keep_first(const int32_t *order, int32_t num_kept)
{
    for (int32_t i = num_kept; i < reference.vocab_size; i++)
        reference.weights[order[i]] = 0;
}

/* Whether it is certain what top_p keeps. */
static inline bool keep_top_p(const int32_t *order, double top_p)
{
    double mass = mass_of_reference(), limit = top_p * mass, reached = 0, before = 0;
    int32_t num_kept = 0;
    do {
        before = reached;
        reached += reference.weights[order[num_kept++]];
    } while (num_kept < reference.vocab_size && reached < limit);
    keep_first(order, num_kept);
    bool needs_last = num_kept == 1 || limit - before > ROUNDING * mass;
    return needs_last && reached - limit > ROUNDING * mass;
}

static inline bool is_allowed(const struct sampling *sampling, int32_t token_id)
{
    for (int32_t i = 0; i < sampling->num_banned; i++)
        if (sampling->banned[i] == token_id)
            return false;
    const uint32_t *allowed = sampling->allowed;
    return allowed == NULL || (allowed[token_id / 32] >> token_id % 32 & 1);
}

/* Fills in the reference; returns whether it is certain. */
static inline bool refer_to(const float *logits, int32_t vocab_size,
                            const struct sampling *sampling)
{
    static int32_t order[MAX_VOCAB];
    float peak = -INFINITY, scale = 1 / fmaxf(sampling->temperature, FLT_MIN);
    bool is_certain = true;
    for (int32_t i = 0; i < vocab_size; i++)
        if (is_allowed(sampling, i))
            peak = fmaxf(peak, logits[i]);
    reference.vocab_size = vocab_size;
    for (int32_t i = 0; i < vocab_size; i++) {
        float distance = (logits[i] - peak) * scale;
        reference.weights[i] = is_allowed(sampling, i) ? (double)exponential(distance) : 0;
        order[i] = i;
    }
    qsort(order, (size_t)vocab_size, sizeof order[0], by_weight);
    if (sampling->top_k > 0 && sampling->top_k < vocab_size)
        keep_first(order, sampling->top_k);
    if (sampling->top_p < 1)
        is_certain = keep_top_p(order, (double)sampling->top_p);
    for (int32_t i = 0; i < vocab_size; i++)
        if (reference.weights[i] < (double)sampling->min_p)
            reference.weights[i] = 0;
    reference.mass = mass_of_reference();
    return is_certain;
}

static inline void check_drawn(int32_t token_id, double uniform)
{
    CHECK(token_id >= 0 && token_id < reference.vocab_size);
    CHECK(reference.weights[token_id] > 0);
    double before = 0;
    for (int32_t i = 0; i < token_id; i++)
        before += reference.weights[i];
    double tolerance = ROUNDING * reference.mass;
    CHECK(uniform * reference.mass >= before - tolerance);
    CHECK(uniform * reference.mass <= before + reference.weights[token_id] + tolerance);
}

static inline double reference_logprob(const float *logits, int32_t vocab_size, int32_t token_id)
{
    double peak = -INFINITY, sum = 0;
    for (int32_t i = 0; i < vocab_size; i++)
        peak = fmax(peak, (double)logits[i]);
    for (int32_t i = 0; i < vocab_size; i++)
        sum += exp((double)logits[i] - peak);
    return (double)logits[token_id] - peak - log(sum);
}

/* ---- calling the kernel ---- */

/* Samples from a copy, since the kernel may overwrite it, in memory that holds garbage. */
static inline struct sampled sample(const float *logits, int32_t vocab_size,
                                    const struct sampling *sampling)
{
    size_t num_bytes = (size_t)vocab_size * sizeof(float);
    float *copy = test_alloc(num_bytes);
    void *scratch = test_alloc(sampler_scratch_bytes(vocab_size));
    memcpy(copy, logits, num_bytes);
    memset(scratch, 0x7f, sampler_scratch_bytes(vocab_size)); /* as floats, 3.4e38 */
    struct sampled sampled = KERNEL(sample)(copy, vocab_size, sampling, scratch);
    test_free(copy), test_free(scratch);
    return sampled;
}

static inline int32_t sample_id(const float *logits, int32_t vocab_size, struct sampling sampling)
{
    return sample(logits, vocab_size, &sampling).token_id;
}

static inline void check_logprob(const float *logits, int32_t vocab_size, struct sampled sampled)
{
    double expected = reference_logprob(logits, vocab_size, sampled.token_id);
    CHECK_CLOSE(sampled.logprob, expected, 1e-6 + fabs(expected) * 0x1p-24);
}

static int num_cases, num_uncertain; /* of check_draws() */

static inline void check_draws(const float *logits, int32_t vocab_size, struct sampling sampling,
                               int num_draws)
{
    num_cases++;
    if (!refer_to(logits, vocab_size, &sampling)) {
        num_uncertain++;
        return;
    }
    for (int draw = 0; draw < num_draws; draw++) {
        sampling.seed = (uint64_t)draw;
        sampling.output_index = (uint64_t)draw % 5;
        struct sampled sampled = sample(logits, vocab_size, &sampling);
        check_drawn(sampled.token_id, sampler_uniform(sampling.seed, sampling.output_index));
        check_logprob(logits, vocab_size, sampled);
    }
}

/* ---- distributions ---- */

#define LARGE_VOCAB 49152
#define SAMPLED_EVERY (LARGE_VOCAB / 1024) /* a sample has 1024 tokens */

enum shape {
    SMOOTH, /* like a language model's: a few tokens hold most of the mass */
    NEARLY_FLAT,
    FLAT,
    COARSE, /* many tie */
    TWO_VALUES,
    SPIKE,
    SPIKE_ON_A_PLAIN,
    MOSTLY_IMPOSSIBLE,
    FALLING, /* down to weights that vanish */
    BARELY_DIFFERENT, /* by one unit in the last place */
    LARGE,
    MISLEADING, /* where the cut takes a sample of LARGE_VOCAB, no token is as elsewhere */
    NUM_SHAPES
};

/* About normal, with a standard deviation of 1. */
static inline float normal(void)
{
    float sum = -6;
    for (int i = 0; i < 12; i++)
        sum += test_uniform(0, 1);
    return sum;
}

static inline float logit(enum shape shape, int32_t i, int32_t vocab_size)
{
    switch (shape) {
    case SMOOTH:
        return 4 * normal();
    case NEARLY_FLAT:
        return 1e-3f * normal();
    case COARSE:
        return roundf(4 * normal()) / 4;
    case TWO_VALUES:
        return (float)(i % 3 == 0);
    case SPIKE:
        return i == vocab_size / 3 ? 30 : 0;
    case SPIKE_ON_A_PLAIN:
        return i == vocab_size / 3 ? 3 : 0;
    case MOSTLY_IMPOSSIBLE:
        return i % 300 == vocab_size % 300 / 2 ? normal() : -INFINITY;
    case FALLING:
        return -400 * (float)i / (float)vocab_size;
    case BARELY_DIFFERENT:
        return nextafterf(1, (float)(i % 2 * 2));
    case LARGE:
        return 1e4f + normal();
    case MISLEADING:
        return i / QUAD % SAMPLED_EVERY == 0 ? 0 : normal() - 1;
    case FLAT:
    case NUM_SHAPES:
        break;
    }
    return 0;
}

static inline float *alloc_shape(enum shape shape, int32_t vocab_size)
{
    float *logits = test_alloc((size_t)vocab_size * sizeof(float));
    for (int32_t i = 0; i < vocab_size; i++)
        logits[i] = logit(shape, i, vocab_size);
    return logits;
}

static const struct sampling FILTERS[] = {
    {.temperature = 1, .top_p = 1},
    {.temperature = 0.3f, .top_p = 1},
    {.temperature = 2, .top_p = 1},
    {.temperature = 3e38f, .top_p = 1},
    {.temperature = 1, .top_p = 1, .top_k = 1},
    {.temperature = 1, .top_p = 1, .top_k = 7},
    {.temperature = 1.5f, .top_p = 1, .top_k = 306},
    {.temperature = 1, .top_p = 1, .top_k = 1000000},
    {.temperature = 1, .top_p = 0.5f},
    {.temperature = 1, .top_p = 0.95f},
    {.temperature = 0.7f, .top_p = 0.95f},
    {.temperature = 1, .top_p = 1e-9f},
    {.temperature = 1, .top_p = 0}, /* what a double above 0 can become as a float */
    {.temperature = 1, .top_p = 0.999f},
    {.temperature = 1, .top_p = 1, .min_p = 0.1f},
    {.temperature = 1, .top_p = 1, .min_p = 1},
    {.temperature = 0.7f, .top_p = 0.9f, .top_k = 40, .min_p = 0.02f},
    {.temperature = 1, .top_p = 0.8f, .top_k = 700},
    {.temperature = 1.5f, .top_p = 0.999f, .min_p = 1e-3f},
};
enum { NUM_FILTERS = sizeof FILTERS / sizeof FILTERS[0] };

#endif
