/* sampler: the way of a row of logits to its token; sampler_row.h says what the steps are. */
#include "sampler.h"

#include <float.h>
#include <math.h>

#include "sampler_row.h"

static struct sampler_row row_in(void *scratch, float *logits, int32_t vocab_size)
{
    struct sampler_layout layout = sampler_layout(vocab_size);
    int32_t num_groups = sampler_num_groups(vocab_size);
    char *memory = scratch;
    return (struct sampler_row){
        .logits = logits,
        .vocab_size = vocab_size,
        .num_groups = num_groups,
        .num_whole_groups = vocab_size / SAMPLER_GROUP,
        .last_group = (float *)(memory + layout.last_group),
        .num_columns = (num_groups + 3) / 4 * QUAD,
        .peaks = (float *)(memory + layout.peaks),
        .heaviest = (float *)(memory + layout.heaviest),
        .masses = (float *)(memory + layout.masses),
        .candidates = (int32_t *)(memory + layout.candidates),
        .weights = (float *)(memory + layout.weights),
        .remaining = (float *)(memory + layout.remaining),
        .prefixes = (double *)(memory + layout.prefixes),
    };
}

/* ---- tokens that may not be chosen ---- */

static void mask(struct sampler_row *row, const uint32_t *allowed)
{
    int32_t i = 0;
    for (; i + VEC_LANES <= row->vocab_size; i += VEC_LANES) {
        vec_i32 is_allowed = lanes_mask(allowed[i / 32] >> i % 32);
        vec logits = vec_load(row->logits + i);
        vec_store(row->logits + i, vec_select(is_allowed, logits, vec_set1(-INFINITY)));
    }
    for (; i < row->vocab_size; i++)
        if (!(allowed[i / 32] >> i % 32 & 1))
            row->logits[i] = -INFINITY;
}

/* Returns whether anything may have changed. */
static bool forbid(struct sampler_row *row, const struct sampling *sampling)
{
    for (int32_t i = 0; i < sampling->num_banned; i++)
        row->logits[sampling->banned[i]] = -INFINITY;
    if (sampling->allowed != NULL)
        mask(row, sampling->allowed);
    return sampling->num_banned > 0 || sampling->allowed != NULL;
}

/* ---- the choice ---- */

static int32_t choose_likeliest(const struct sampler_row *row)
{
    for (int32_t group = 0; group < row->num_groups; group++) {
        vec peaks = vec_load(row->peaks + group * VEC_LANES);
        if (!lanes_equal(peaks, vec_set1(row->peak)))
            continue;
        const float *logits = sampler_group(row, group);
        for (int32_t i = 0; i < SAMPLER_GROUP; i++)
            if (logits[i] == row->peak)
                return group * SAMPLER_GROUP + i;
    }
    return SAMPLED_NOTHING;
}

/* Neither the temperature nor its inverse may become zero or infinite. */
static float scale_of(const struct sampling *sampling)
{
    if (sampling->temperature == 0)
        return 1;
    return 1 / fminf(fmaxf(sampling->temperature, FLT_MIN), 1 / FLT_MIN);
}

/* top_k and min_p compare tokens with each other only. */
static bool needs_mass(const struct sampling *sampling)
{
    return sampling->top_k == 0 && (sampling->top_p < 1 || sampling->min_p == 0);
}

static int32_t choose_any(struct sampler_row *row, const struct sampling *sampling)
{
    double uniform = sampler_uniform(sampling->seed, sampling->output_index);
    float scale = scale_of(sampling);
    if (scale != row->scale && needs_mass(sampling))
        KERNEL(sampler_survey)(row, scale);
    else if (scale != row->scale)
        KERNEL(sampler_rescale)(row, scale);
    if (sampling->top_k == 0 && sampling->top_p >= 1 && sampling->min_p == 0)
        return KERNEL(sampler_draw_any)(row, uniform);
    KERNEL(sampler_filter)(row, sampling);
    return KERNEL(sampler_draw_candidate)(row, uniform);
}

static int32_t choose(struct sampler_row *row, const struct sampling *sampling)
{
    if (sampling->temperature == 0)
        return choose_likeliest(row);
    struct sampling effective = *sampling;
    if (sampling->top_k >= row->vocab_size)
        effective.top_k = 0;
    return choose_any(row, &effective);
}

static bool has_choice(const struct sampler_row *row)
{
    return row->mass > 0;
}

struct sampled KERNEL(sample)(float *logits, int32_t vocab_size, const struct sampling *sampling,
                              void *scratch)
{
    struct sampler_row row = row_in(scratch, logits, vocab_size);
    KERNEL(sampler_survey)(&row, 1);
    double peak = row.peak, log_mass = log(row.mass); /* the model's own */
    bool is_usable = has_choice(&row);
    if (is_usable && forbid(&row, sampling)) {
        KERNEL(sampler_survey)(&row, scale_of(sampling));
        is_usable = has_choice(&row);
    }
    if (!is_usable)
        return (struct sampled){SAMPLED_NOTHING, 0};
    int32_t token_id = choose(&row, sampling);
    return (struct sampled){token_id, (float)(logits[token_id] - peak - log_mass)};
}
