/* attention_scratch: the memory of an attention; the same for every CPU level. */
#ifndef REALTIME_SERVE_ATTENTION_SCRATCH_H
#define REALTIME_SERVE_ATTENTION_SCRATCH_H

#include "bf16.h"
#include "ops.h"

/* Each array begins at a multiple of 64 bytes if the struct does. Unused queries have numbers of
 * no meaning, but they have them: vectors of queries are computed whole. */
struct attention_scratch {
    float scores[ATTENTION_MAX_QUERIES][ATTENTION_PART_TOKENS];
    bf16 weights[ATTENTION_MAX_QUERIES][ATTENTION_PART_TOKENS]; /* where they are rounded */
    int16_t weight_codes[ATTENTION_MAX_QUERIES][ATTENTION_PART_TOKENS]; /* or by bytes */
    float weight_scales[ATTENTION_MAX_QUERIES];
    float query_scales[ATTENTION_MAX_QUERIES];
    float greatest[ATTENTION_MAX_QUERIES]; /* score so far */
    float total[ATTENTION_MAX_QUERIES];    /* of the weights so far */
    float rescale[ATTENTION_MAX_QUERIES];  /* what the sums so far are multiplied by */
    float vectors[]; /* queries, then outputs: ATTENTION_MAX_QUERIES times head_dim each; then a
                      * workspace: ATTENTION_PART_TOKENS times head_dim bytes */
};

#endif
