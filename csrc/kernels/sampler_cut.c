/* sampler_cut: a selection that neither sorts nor depends on luck.
 *
 * The bits of non-negative floats order like the floats. The cut's bits lie in a range. Each round
 * takes a pivot in it and adds up the tokens at least as heavy: the cut is among them if they reach
 * the limit, else among the others. The range shrinks to bits that occur, and the tokens outside of
 * it are left behind.
 *
 * The pivot is the middle of the range, so that there are at most 30 rounds. The first few rounds
 * over many tokens ask a sample of them for a better one, which leaves a small part in one round;
 * if the sample misleads, that costs these few rounds and nothing else.
 */
#include <math.h>

#include "sampler_row.h"

struct range {
    uint32_t least; /* the bits that the cut has at least and at most */
    uint32_t most;
    const float *weights; /* those in the range, and others that are lighter */
    int32_t count;        /* a multiple of QUAD */
    enum sampler_amount amount;
    double missing;   /* what these tokens have yet to reach */
    double total;     /* what all of them reach, about */
    float *remaining; /* where those of the next range go */
};

/* Tokens on both sides of a pivot. */
struct split {
    double amount; /* of those at least as heavy as the pivot */
    float least_heavier;
    float greatest_lighter;
};

static uint32_t bits_of(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits;
}

static float weight_of(uint32_t bits)
{
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

KERNEL_INLINE struct split split_at(const float *weights, int32_t count, float pivot,
                                    enum sampler_amount amount)
{
    const vec zero = vec_set1(0.0f);
    const vec none_heavier = vec_set1(-2.0f); /* negative, since there is vec_max only */
    vec least = none_heavier;
    vec greatest = zero;
    struct wide_sum sum = {0};
    for (int32_t i = 0; i < count; i += QUAD) {
        vec amounts[4];
        for (int j = 0; j < 4; j++) {
            vec weight = vec_load(weights + i + j * VEC_LANES);
            vec_i32 is_heavier = (vec_i32)(weight >= pivot);
            vec heavier = vec_select(is_heavier, weight, zero);
            vec one = vec_select(is_heavier, vec_set1(1.0f), zero);
            greatest = vec_max(greatest, weight - heavier);
            least = vec_max(least, vec_select(is_heavier, -weight, none_heavier));
            amounts[j] = amount == SAMPLER_MASS ? heavier : one;
        }
        wide_add(&sum, (amounts[0] + amounts[1]) + (amounts[2] + amounts[3]));
    }
    return (struct split){wide_total(&sum), -vec_greatest(least), vec_greatest(greatest)};
}

/* One loop for each amount. */
static struct split split_range(const struct range *range, uint32_t pivot)
{
    float weight = weight_of(pivot);
    if (range->amount == SAMPLER_MASS)
        return split_at(range->weights, range->count, weight, SAMPLER_MASS);
    return split_at(range->weights, range->count, weight, SAMPLER_NUMBER);
}

/* Copy the weights from least to most, which may be done in place, and fill up the last quad with
 * zeros. Returns the number of weights, those zeros included. */
static int32_t keep_between(const float *weights, int32_t count, float least, float most,
                            float *kept)
{
    int32_t num_kept = 0;
    for (int32_t i = 0; i < count; i += VEC_LANES) {
        vec weight = vec_load(weights + i);
        uint32_t lanes =
            lanes_at_least(weight, vec_set1(least)) & lanes_at_least(vec_set1(most), weight);
        num_kept += lanes_store(kept + num_kept, weight, lanes);
    }
    for (int j = 0; j < 4; j++)
        vec_store(kept + num_kept + j * VEC_LANES, vec_set1(0.0f));
    return (num_kept + QUAD - 1) / QUAD * QUAD;
}

/* One round. `pivot` is above range->least. */
static void narrow(struct range *range, uint32_t pivot)
{
    struct split split = split_range(range, pivot);
    if (split.amount >= range->missing) {
        range->total = split.amount;
        range->least = bits_of(split.least_heavier);
    } else {
        range->total -= split.amount;
        range->missing -= split.amount;
        range->most = bits_of(split.greatest_lighter);
    }
    range->count = keep_between(range->weights, range->count, weight_of(range->least),
                                weight_of(range->most), range->remaining);
    range->weights = range->remaining;
}

static void narrow_to_one(struct range *range)
{
    while (range->least < range->most)
        narrow(range, range->most - (range->most - range->least) / 2);
}

/* ---- samples ---- */

enum {
    SAMPLE_SIZE = 1024,
    SAMPLE_QUADS = SAMPLE_SIZE / QUAD,
    MIN_SAMPLED = 8 * SAMPLE_SIZE, /* fewer are halved as fast as a sample is asked */
    MAX_SAMPLES = 4,
};

static void take_sample(const struct range *range, float *sample)
{
    int32_t num_quads = range->count / QUAD;
    for (int32_t i = 0; i < SAMPLE_QUADS; i++) {
        int32_t quad = (int32_t)((int64_t)num_quads * i / SAMPLE_QUADS);
        memcpy(sample + i * QUAD, range->weights + quad * QUAD, QUAD * sizeof(float));
    }
}

/* The share that a sample's pivot is to reach, so that the cut is on the smaller side of it: two
 * standard deviations beside the share that is missing. */
static double share_beside(double share)
{
    double deviation = sqrt(share * (1 - share) / SAMPLE_SIZE);
    return share < 0.5 ? share + 2 * deviation : share - 2 * deviation;
}

static uint32_t pivot_of_sample(const struct range *range)
{
    _Alignas(64) float weights[SAMPLE_SIZE + QUAD];
    take_sample(range, weights);
    struct range sample = *range;
    sample.weights = sample.remaining = weights;
    sample.count = SAMPLE_SIZE;
    sample.total = split_range(&sample, range->least).amount;
    sample.missing = share_beside(fmin(range->missing / range->total, 1)) * sample.total;
    narrow_to_one(&sample);
    return sample.least > range->least ? sample.least : range->least + 1;
}

/* ---- the cut ---- */

static int32_t num_ties(const struct range *range, float weight)
{
    double ties = range->amount == SAMPLER_MASS ? range->missing / weight : range->missing;
    return (int32_t)fmin(fmax(ceil(ties), 1), INT32_MAX);
}

struct sampler_cut KERNEL(sampler_cut)(const float *weights, int32_t count,
                                       const struct sampler_limit *limit, float *remaining)
{
    struct range range = {
        .least = limit->lowest > 0 ? bits_of(limit->lowest) : 1,
        .most = bits_of(1.0f),
        .weights = weights,
        .count = count,
        .amount = limit->amount,
        .missing = limit->limit,
        .total = limit->total,
        .remaining = remaining,
    };
    for (int i = 0; i < MAX_SAMPLES; i++)
        if (range.count >= MIN_SAMPLED && range.least < range.most)
            narrow(&range, pivot_of_sample(&range));
    narrow_to_one(&range);
    float weight = weight_of(range.least);
    return (struct sampler_cut){weight, num_ties(&range, weight)};
}
