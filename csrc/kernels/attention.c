/* attention: takes the queries of a tile through their tokens; attention.h has the theory. */
#include "attention.h"

#include <math.h>

#include "vec.h"

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* ---- softmax over a part ---- */

/* Scores from num_visible on become minus infinity. */
static void hide_scores(float *scores, int32_t num_visible, int32_t num_tokens)
{
    vec_i32 lane;
    for (int32_t i = 0; i < VEC_LANES; i++)
        lane[i] = i;
    for (int32_t t = num_visible / VEC_LANES * VEC_LANES; t < num_tokens; t += VEC_LANES) {
        vec_i32 visible = lane + t < num_visible;
        vec_store(scores + t, vec_select(visible, vec_load(scores + t), vec_set1(-INFINITY)));
    }
}

static float greatest_score(const float *scores, int32_t num_tokens)
{
    vec greatest = vec_load(scores);
    for (int32_t t = VEC_LANES; t < num_tokens; t += VEC_LANES)
        greatest = vec_max(greatest, vec_load(scores + t));
    return vec_greatest(greatest);
}

/* Raise each query's greatest score to the part's, and rescale its total to it. */
static void raise_greatest(struct attention_scratch *scratch, const float *part_greatest)
{
    for (int32_t i = 0; i < ATTENTION_MAX_QUERIES; i += VEC_LANES) {
        vec before = vec_load(scratch->greatest + i);
        vec greatest = vec_max(before, vec_load(part_greatest + i));
        vec rescale = vec_exp(before - greatest);
        vec_store(scratch->greatest + i, greatest);
        vec_store(scratch->rescale + i, rescale);
        vec_store(scratch->total + i, vec_load(scratch->total + i) * rescale);
    }
}

static void rescale_output(const struct attention *attention, int32_t query)
{
    float *output = attention->output + query * attention->head_dim;
    vec rescale = vec_set1(attention->scratch->rescale[query]);
    for (int32_t d = 0; d < attention->head_dim; d += VEC_LANES)
        vec_store(output + d, vec_load(output + d) * rescale);
}

/* How many of the part's tokens, which begin at first_token, a row at `position` sees. */
static int32_t num_visible(const struct attention *attention, int32_t position,
                           int32_t first_token)
{
    int32_t num_tokens = least(position + 1 - first_token, attention->num_blocks * KV_BLOCK_TOKENS);
    return num_tokens < 0 ? 0 : num_tokens;
}

/* Make weights of the scores. All queries go through one step before any goes through the next:
 * the CPU then has several queries under way at once. */
static void weigh(const struct attention *attention, const struct attention_method *method,
                  int32_t first_token)
{
    const int32_t multiple = ATTENTION_WEIGHTS_MULTIPLE;
    struct attention_scratch *scratch = attention->scratch;
    int32_t num_tokens = attention->num_blocks * KV_BLOCK_TOKENS;
    num_tokens = (num_tokens + multiple - 1) / multiple * multiple;
    float part_greatest[ATTENTION_MAX_QUERIES] = {0};
    for (int32_t i = 0; i < attention->num_queries; i++) {
        float *scores = scratch->scores[i];
        hide_scores(scores, num_visible(attention, attention->positions[i], first_token),
                    num_tokens);
        part_greatest[i] = greatest_score(scores, num_tokens);
    }
    raise_greatest(scratch, part_greatest);
    for (int32_t i = 0; i < attention->num_queries; i++) {
        scratch->total[i] += method->exponentiate(attention, i, num_tokens, scratch->greatest[i]);
        rescale_output(attention, i);
    }
}

/* ---- the queries of a tile ---- */

/* Take up to ATTENTION_MAX_QUERIES queries of the tile. Query i of a tile is head i % group of row
 * i / group. */
static void select_queries(struct attention *attention, const struct attention_tile *tile,
                           int32_t first_query)
{
    int32_t row = first_query / tile->group;
    int32_t head = first_query % tile->group;
    attention->num_queries =
        least(tile->num_rows * tile->group - first_query, ATTENTION_MAX_QUERIES);
    for (int32_t i = 0; i < attention->num_queries; i++) {
        attention->positions[i] = tile->first_position + row;
        attention->offsets[i] = (size_t)row * (size_t)tile->row_stride +
                                (size_t)head * (size_t)attention->head_dim;
        head = head + 1 < tile->group ? head + 1 : 0;
        row += head == 0;
    }
}

/* What is written at the end may have left the cache by then; a store that waits for its line
 * holds up those of the next tile. */
static void prefetch_out(const struct attention *attention, const float *out)
{
    const int32_t line_floats = 16;
    for (int32_t i = 0; i < attention->num_queries; i++)
        for (int32_t d = 0; d < attention->head_dim; d += line_floats)
            __builtin_prefetch(out + attention->offsets[i] + d, 1);
}

static void begin(const struct attention *attention, const struct attention_method *method,
                  const struct attention_tile *tile)
{
    struct attention_scratch *scratch = attention->scratch;
    if (method->begin_products != NULL)
        method->begin_products(attention);
    float scale = 1.0f / sqrtf((float)attention->head_dim);
    prefetch_out(attention, tile->out);
    for (int32_t i = 0; i < attention->num_queries; i++)
        method->store_query(attention, i, tile->queries + attention->offsets[i], scale);
    for (int32_t i = 0; i < ATTENTION_MAX_QUERIES; i++) {
        scratch->greatest[i] = -INFINITY;
        scratch->total[i] = 0.0f;
    }
    size_t num_values = (size_t)attention->num_queries * (size_t)attention->head_dim;
    memset(attention->output, 0, num_values * sizeof(float));
}

static void end(const struct attention *attention, float *out)
{
    for (int32_t i = 0; i < attention->num_queries; i++) {
        const float *output = attention->output + i * attention->head_dim;
        float *row = out + attention->offsets[i];
        vec factor = vec_set1(1.0f / attention->scratch->total[i]);
        for (int32_t d = 0; d < attention->head_dim; d += VEC_LANES)
            vec_store(row + d, vec_load(output + d) * factor);
    }
}

static void attend_queries(struct attention *attention, const struct attention_method *method,
                           const struct attention_tile *tile)
{
    int32_t last_position = attention->positions[attention->num_queries - 1];
    int32_t num_blocks = last_position / KV_BLOCK_TOKENS + 1;
    begin(attention, method, tile);
    for (int32_t block = 0; block < num_blocks; block += ATTENTION_PART_BLOCKS) {
        attention->blocks = tile->block_table + block;
        attention->num_blocks_left = num_blocks - block;
        attention->num_blocks = least(num_blocks - block, ATTENTION_PART_BLOCKS);
        method->multiply_keys(attention);
        weigh(attention, method, block * KV_BLOCK_TOKENS);
        method->multiply_values(attention);
    }
    end(attention, tile->out);
}

static void attend(const struct kv_cache *cache, const struct attention_tile *tile,
                   struct attention_scratch *scratch, const struct attention_method *method)
{
    size_t first_block = kv_block_offset(cache, tile->layer, tile->kv_head, 0);
    struct attention attention = {
        .head_dim = cache->head_dim,
        .keys = (const char *)cache->keys + first_block,
        .values = (const char *)cache->values + first_block,
        .block_bytes = kv_block_bytes(cache->format, cache->head_dim),
        .segment_bytes = kv_segment_bytes(cache),
        .scratch = scratch,
        .queries = scratch->vectors,
        .output = scratch->vectors + ATTENTION_MAX_QUERIES * cache->head_dim,
        .workspace = scratch->vectors + 2 * ATTENTION_MAX_QUERIES * cache->head_dim,
    };
    int32_t num_queries = tile->num_rows * tile->group;
    for (int32_t first = 0; first < num_queries; first += ATTENTION_MAX_QUERIES) {
        select_queries(&attention, tile, first);
        attend_queries(&attention, method, tile);
    }
}

void KERNEL(attend_f32)(const struct kv_cache *cache, const struct attention_tile *tile,
                        void *scratch)
{
    attend(cache, tile, scratch, &KERNEL(attention_f32));
}

void KERNEL(attend_bf16)(const struct kv_cache *cache, const struct attention_tile *tile,
                         void *scratch)
{
    attend(cache, tile, scratch, &KERNEL(attention_bf16));
}

void KERNEL(attend_int8)(const struct kv_cache *cache, const struct attention_tile *tile,
                         void *scratch)
{
    attend(cache, tile, scratch, &KERNEL(attention_int8));
}
