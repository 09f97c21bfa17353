/* sampler_row: a row of logits on its way to a token, and the steps of that way.
 *
 *   survey   reads the row once and keeps, for each column (sampler_scratch.h), the greatest logit
 *            and the mass of the tokens
 *   filter   finds the tokens that top_k, top_p and min_p keep
 *     cut    finds where the heaviest tokens reach a number or a mass
 *   draw     inverts the CDF
 *
 * A token's weight is exp((logit - peak) * scale) in float32, so that the likeliest token's is 1. A
 * mass is a sum of weights: in float32 over a few vectors, which rounds it by less than the weights
 * are rounded, and in float64 beyond. Each sum runs in one order, whatever else is in the batch.
 */
#ifndef REALTIME_SERVE_SAMPLER_ROW_H
#define REALTIME_SERVE_SAMPLER_ROW_H

#include <stdbool.h>

#include "kernels.h"
#include "sampler_scratch.h"
#include "vec_lanes.h"

#define GROUP_VECTORS (SAMPLER_GROUP / VEC_LANES)
#define QUAD (4 * VEC_LANES) /* four vectors at a time: added up in float32 */

struct sampler_row {
    float *logits;
    int32_t vocab_size;
    int32_t num_groups;
    int32_t num_whole_groups;
    float *last_group; /* of a row that ends within a group: its rest, then minus infinity */

    /* What the last survey found. */
    float scale;         /* 1 / temperature */
    float peak;          /* the greatest logit */
    double mass;         /* of all tokens; not above 0, or NaN, if there is nothing to choose */
    int32_t num_columns; /* a multiple of QUAD: empty ones may follow those of the groups */
    float *peaks;        /* [group][lane]: the greatest logit of a column */
    float *heaviest;     /* [group][lane]: its weight */
    float *masses;       /* [group][lane]: of the column's tokens */

    /* What the filters have left. */
    int32_t num_candidates;
    int32_t *candidates; /* vectors of the row, in order */
    int32_t num_weights; /* a multiple of QUAD: zeros may follow those of the candidates */
    float *weights;      /* of the candidates' tokens, 0 for those that were dropped */

    float *remaining; /* the cut's */
    double *prefixes; /* the draw's */
};

static inline const float *sampler_group(const struct sampler_row *row, int32_t group)
{
    bool is_whole = group < row->num_whole_groups;
    return is_whole ? row->logits + group * SAMPLER_GROUP : row->last_group;
}

static inline const float *sampler_vector(const struct sampler_row *row, int32_t vector)
{
    int32_t num_whole = row->num_whole_groups * GROUP_VECTORS;
    return vector < num_whole ? row->logits + vector * VEC_LANES
                              : row->last_group + (vector - num_whole) * VEC_LANES;
}

KERNEL_INLINE vec sampler_weigh(const struct sampler_row *row, vec logits)
{
    return vec_exp((logits - row->peak) * row->scale);
}

/* `count` is a multiple of QUAD. */
KERNEL_INLINE double sampler_mass(const float *weights, int32_t count)
{
    struct wide_sum sum = {0};
    for (int32_t i = 0; i < count; i += QUAD) {
        vec first = vec_load(weights + i) + vec_load(weights + i + VEC_LANES);
        vec second = vec_load(weights + i + 2 * VEC_LANES) + vec_load(weights + i + 3 * VEC_LANES);
        wide_add(&sum, first + second);
    }
    return wide_total(&sum);
}

/* Fills in what the struct says. A scale of 1 gives the model's own weights. */
void KERNEL(sampler_survey)(struct sampler_row *row, float scale);

/* Does so for another scale, from what the last survey found; the masses are left as they were. */
void KERNEL(sampler_rescale)(struct sampler_row *row, float scale);

/* Fills in what the struct says, of a row that was surveyed and has tokens to choose from. */
void KERNEL(sampler_filter)(struct sampler_row *row, const struct sampling *sampling);

/* The first token up to which the mass is above `uniform` times that of all: of all the tokens, or
 * of those that the filters have left. It never has weight 0. */
int32_t KERNEL(sampler_draw_any)(struct sampler_row *row, double uniform);
int32_t KERNEL(sampler_draw_candidate)(struct sampler_row *row, double uniform);

enum sampler_amount { SAMPLER_NUMBER, SAMPLER_MASS };

struct sampler_limit {
    enum sampler_amount amount;
    double limit; /* of that amount, above 0 */
    double total; /* amount of all tokens, about */
    float lowest; /* a weight that the cut is not below */
};

/* The tokens heavier than `weight` are kept, and the first num_ties of those that weigh as much. */
struct sampler_cut {
    float weight;
    int32_t num_ties; /* at least 1 */
};

/* Where the heaviest tokens reach the limit, or just below all of them if they do not. `weights`
 * are from 0 to 1, and `count` is a multiple of QUAD; `remaining` has room for one QUAD more. */
struct sampler_cut KERNEL(sampler_cut)(const float *weights, int32_t count,
                                       const struct sampler_limit *limit, float *remaining);

#endif
