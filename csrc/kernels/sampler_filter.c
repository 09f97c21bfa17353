/* sampler_filter: the tokens that top_k, top_p and min_p keep.
 *
 * What the survey knows of the columns gives a weight that the cut is not below, and is mostly
 * near: only vectors that hold such a token, the candidates, are looked at again. These are a few
 * hundred for most rows. Where the distribution is flat they are all, and only the time changes.
 */
#include <math.h>

#include "sampler_row.h"

/* ---- a weight that no cut is below ---- */

/* What the tokens at least as heavy as `weight` weigh, or less: of a column whose heaviest is one
 * of them, all but the most that the others can weigh if they are lighter. */
static double least_mass_from(const struct sampler_row *row, float weight)
{
    const float most_lighter = (GROUP_VECTORS - 1) * weight;
    const vec zero = vec_set1(0.0f);
    struct wide_sum sum = {0};
    for (int32_t i = 0; i < row->num_columns; i += QUAD) {
        vec masses[4];
        for (int j = 0; j < 4; j++) {
            vec heaviest = vec_load(row->heaviest + i + j * VEC_LANES);
            vec others = vec_load(row->masses + i + j * VEC_LANES) - heaviest;
            vec mass = heaviest + vec_max(others - most_lighter, zero);
            masses[j] = vec_select((vec_i32)(heaviest >= weight), mass, zero);
        }
        wide_add(&sum, (masses[0] + masses[1]) + (masses[2] + masses[3]));
    }
    return wide_total(&sum);
}

/* A weight whose heavier tokens reach `mass`; 0 if none is known. Its bits are found from the
 * highest down; the lowest, worth an eighth at most, are not looked for. */
static float weight_reaching(const struct sampler_row *row, double mass)
{
    const double limit = mass * (1 + 1e-6); /* the masses of columns are rounded to float32 */
    float found = 0;
    uint32_t bits = 0;
    for (uint32_t bit = UINT32_C(1) << 29; bit >= UINT32_C(1) << 20; bit >>= 1) {
        uint32_t higher = bits | bit;
        float weight;
        memcpy(&weight, &higher, sizeof weight);
        if (least_mass_from(row, weight) >= limit) {
            bits = higher;
            found = weight;
        }
    }
    return found;
}

static float weight_of_kth(const struct sampler_row *row, int32_t k)
{
    struct sampler_limit limit = {SAMPLER_NUMBER, k, row->num_columns, 0};
    return KERNEL(sampler_cut)(row->heaviest, row->num_columns, &limit, row->remaining).weight;
}

/* Lower than need be by more than exponentials and logarithms are rounded. */
static float lowest_weight(const struct sampler_row *row, const struct sampling *sampling)
{
    float weight = sampling->top_k > 0   ? weight_of_kth(row, sampling->top_k)
                   : sampling->top_p < 1 ? weight_reaching(row, sampling->top_p * row->mass)
                                         : sampling->min_p;
    return 0.999f * fminf(weight, 1);
}

/* ---- candidates ---- */

static void find_candidates(struct sampler_row *row, float lowest)
{
    const vec distance = vec_set1(logf(lowest));
    int32_t num_candidates = 0;
    for (int32_t group = 0; group < row->num_groups; group++) {
        if (!lanes_at_least(vec_load(row->heaviest + group * VEC_LANES), vec_set1(lowest)))
            continue;
        const float *logits = sampler_group(row, group);
        for (int32_t i = 0; i < GROUP_VECTORS; i++) {
            vec distances = (vec_load(logits + i * VEC_LANES) - row->peak) * row->scale;
            row->candidates[num_candidates] = group * GROUP_VECTORS + i;
            num_candidates += lanes_at_least(distances, distance) != 0; /* without a branch */
        }
    }
    row->num_candidates = num_candidates;
}

static void weigh_candidates(struct sampler_row *row)
{
    int32_t count = row->num_candidates * VEC_LANES;
    for (int32_t i = 0; i < row->num_candidates; i++) {
        vec logits = vec_load(sampler_vector(row, row->candidates[i]));
        vec_store(row->weights + i * VEC_LANES, sampler_weigh(row, logits));
    }
    for (; count % QUAD != 0; count += VEC_LANES)
        vec_store(row->weights + count, vec_set1(0.0f));
    row->num_weights = count;
}

/* ---- filters: each sets the weights that it drops to zero ---- */

static void drop_below(float *weights, int32_t count, float least)
{
    for (int32_t i = 0; i < count; i += VEC_LANES) {
        vec weight = vec_load(weights + i);
        vec_i32 is_kept = (vec_i32)(weight >= least);
        vec_store(weights + i, vec_select(is_kept, weight, vec_set1(0.0f)));
    }
}

/* In one vector, keep the first num_ties weights that equal `tie`. */
static void drop_ties(float *weights, float tie, int32_t num_ties)
{
    for (int32_t i = 0; i < VEC_LANES; i++)
        if (weights[i] == tie && num_ties-- <= 0)
            weights[i] = 0;
}

static void drop_lighter(float *weights, int32_t count, struct sampler_cut cut)
{
    int32_t i = 0;
    for (; i < count && cut.num_ties > 0; i += VEC_LANES) {
        int32_t num_here = lanes_count(lanes_equal(vec_load(weights + i), vec_set1(cut.weight)));
        drop_below(weights + i, VEC_LANES, cut.weight);
        if (num_here > cut.num_ties)
            drop_ties(weights + i, cut.weight, cut.num_ties);
        cut.num_ties -= num_here;
    }
    drop_below(weights + i, count - i, nextafterf(cut.weight, 2));
}

static void keep_heaviest(struct sampler_row *row, struct sampler_limit limit)
{
    struct sampler_cut cut =
        KERNEL(sampler_cut)(row->weights, row->num_weights, &limit, row->remaining);
    drop_lighter(row->weights, row->num_weights, cut);
}

void KERNEL(sampler_filter)(struct sampler_row *row, const struct sampling *sampling)
{
    float lowest = lowest_weight(row, sampling);
    double mass = row->mass;
    find_candidates(row, lowest);
    weigh_candidates(row);
    if (sampling->top_k > 0) {
        keep_heaviest(row, (struct sampler_limit){SAMPLER_NUMBER, sampling->top_k,
                                                  row->num_weights, lowest});
        mass = sampler_mass(row->weights, row->num_weights);
    }
    if (sampling->top_p < 1)
        keep_heaviest(row, (struct sampler_limit){SAMPLER_MASS, sampling->top_p * mass, mass,
                                                  lowest});
    if (sampling->min_p > 0)
        drop_below(row->weights, row->num_weights, fminf(sampling->min_p, 1));
}
