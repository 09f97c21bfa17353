/* sampler_survey: one reading of a row of logits.
 *
 * The exponentials of a column are taken relative to the greatest logit of that column, which is
 * known once its group was read, while the group still is in the first cache. The greatest logit
 * of the row then makes one factor a column: the row is read from memory once.
 */
#include <float.h>
#include <math.h>

#include "sampler_row.h"

static void copy_last_group(struct sampler_row *row)
{
    int32_t num_left = row->vocab_size % SAMPLER_GROUP;
    const float *left = row->logits + (row->vocab_size - num_left);
    for (int32_t i = 0; i < SAMPLER_GROUP; i++)
        row->last_group[i] = i < num_left ? left[i] : -INFINITY;
}

KERNEL_INLINE vec column_peaks(const float *logits)
{
    vec peaks[4];
    for (int j = 0; j < 4; j++)
        peaks[j] = vec_set1(-INFINITY);
    for (int32_t i = 0; i < SAMPLER_GROUP; i += QUAD)
        for (int j = 0; j < 4; j++)
            peaks[j] = vec_max(vec_load(logits + i + j * VEC_LANES), peaks[j]);
    return vec_max(vec_max(peaks[0], peaks[1]), vec_max(peaks[2], peaks[3]));
}

/* The sums of exp((logit - peak) * scale); NaN where a logit is NaN or plus infinity, which vec_exp
 * would hide. Fetches the next group meanwhile; past the row, that does no harm. */
KERNEL_INLINE vec column_sums(const float *logits, vec peaks, float scale)
{
    vec reference = vec_max(peaks, vec_set1(-FLT_MAX)); /* at a distance from minus infinity */
    vec sums[4] = {{0}};
    vec poison = vec_set1(0.0f);
    for (int32_t i = 0; i < SAMPLER_GROUP; i += QUAD)
        for (int j = 0; j < 4; j++) {
            const float *vector = logits + i + j * VEC_LANES;
            __builtin_prefetch(vector + SAMPLER_GROUP);
            vec distance = (vec_load(vector) - reference) * scale;
            sums[j] += vec_exp(distance);
            poison += distance;
        }
    vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    return vec_select((vec_i32)(poison == poison), sum, poison);
}

static float survey_columns(struct sampler_row *row)
{
    vec greatest = vec_set1(-INFINITY);
    for (int32_t group = 0; group < row->num_groups; group++) {
        const float *logits = sampler_group(row, group);
        vec peaks = column_peaks(logits);
        vec_store(row->peaks + group * VEC_LANES, peaks);
        vec_store(row->masses + group * VEC_LANES, column_sums(logits, peaks, row->scale));
        greatest = vec_max(peaks, greatest);
    }
    return vec_greatest(greatest);
}

static void add_empty_columns(struct sampler_row *row)
{
    for (int32_t i = row->num_groups * VEC_LANES; i < row->num_columns; i += VEC_LANES) {
        vec_store(row->peaks + i, vec_set1(-INFINITY));
        vec_store(row->masses + i, vec_set1(0.0f));
    }
}

void KERNEL(sampler_rescale)(struct sampler_row *row, float scale)
{
    row->scale = scale;
    for (int32_t i = 0; i < row->num_columns; i += VEC_LANES)
        vec_store(row->heaviest + i, sampler_weigh(row, vec_load(row->peaks + i)));
}

void KERNEL(sampler_survey)(struct sampler_row *row, float scale)
{
    row->scale = scale;
    copy_last_group(row);
    row->peak = survey_columns(row);
    add_empty_columns(row);
    KERNEL(sampler_rescale)(row, scale);
    for (int32_t i = 0; i < row->num_columns; i += VEC_LANES)
        vec_store(row->masses + i, vec_load(row->masses + i) * vec_load(row->heaviest + i));
    row->mass = sampler_mass(row->masses, row->num_columns);
}
