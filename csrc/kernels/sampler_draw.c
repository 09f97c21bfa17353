/* sampler_draw: the inverse of the CDF, in two steps: the group of tokens, then the token in it. */
#include "sampler_row.h"

struct place {
    int32_t group;
    double target; /* what the mass of the group's tokens up to the drawn one is above */
};

/* `uniform` is at most 1 - 2^-53, so that its product with a mass is below the mass. */
static struct place find_group(const double *prefixes, int32_t num_groups, double uniform)
{
    double target = uniform * prefixes[num_groups - 1];
    int32_t group = 0;
    while (prefixes[group] <= target)
        group++;
    return (struct place){group, group == 0 ? target : target - prefixes[group - 1]};
}

/* The last token of any weight if rounding, in the mass of the group, led past it. */
static int32_t find_token(const float *weights, int32_t count, double target)
{
    double mass = 0;
    int32_t token = 0;
    for (int32_t i = 0; i < count && mass <= target; i++)
        if (weights[i] > 0) {
            mass += (double)weights[i];
            token = i;
        }
    return token;
}

int32_t KERNEL(sampler_draw_any)(struct sampler_row *row, double uniform)
{
    double mass = 0;
    for (int32_t group = 0; group < row->num_groups; group++) {
        struct wide_sum sum = {0};
        wide_add(&sum, vec_load(row->masses + group * VEC_LANES));
        mass += wide_total(&sum);
        row->prefixes[group] = mass;
    }
    struct place place = find_group(row->prefixes, row->num_groups, uniform);
    const float *logits = sampler_group(row, place.group);
    for (int32_t i = 0; i < SAMPLER_GROUP; i += VEC_LANES)
        vec_store(row->weights + i, sampler_weigh(row, vec_load(logits + i)));
    return place.group * SAMPLER_GROUP + find_token(row->weights, SAMPLER_GROUP, place.target);
}

static int32_t group_size(const struct sampler_row *row, int32_t begin)
{
    int32_t num_left = row->num_weights - begin;
    return num_left < SAMPLER_GROUP ? num_left : SAMPLER_GROUP;
}

int32_t KERNEL(sampler_draw_candidate)(struct sampler_row *row, double uniform)
{
    double mass = 0;
    int32_t num_groups = 0;
    for (int32_t begin = 0; begin < row->num_weights; begin += SAMPLER_GROUP) {
        mass += sampler_mass(row->weights + begin, group_size(row, begin));
        row->prefixes[num_groups++] = mass;
    }
    struct place place = find_group(row->prefixes, num_groups, uniform);
    int32_t begin = place.group * SAMPLER_GROUP;
    int32_t inside = find_token(row->weights + begin, group_size(row, begin), place.target);
    int32_t vector = row->candidates[(begin + inside) / VEC_LANES];
    return vector * VEC_LANES + inside % VEC_LANES;
}
