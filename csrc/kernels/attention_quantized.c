/* attention_quantized: queries and weights as whole numbers, for keys and values that are such.
 *
 *   score  = query scale x key scale   x  sum over dimensions of  query code x key code
 *   output = weight scale              x  sum over tokens of      weight code x value code
 *
 * The scale of a token's value is part of its weight before that is rounded. Queries and weights
 * get 16 bits, one of them a sign: against the 8 bits of keys and values their rounding is nothing,
 * and at no level are they any less. A part's sums fit 32 bits (32767 x 127 x 256 tokens), and they
 * are exact in whatever order a level computes them.
 *
 * Codes are laid out as the level's products want them:
 *
 *   by vectors    16 bits each; in fours, the order is 0 2 1 3 (see attention_vec.c)
 *   by AMX tiles  the high bytes of all queries, signed, then the low bytes, unsigned
 */
#include "attention.h"
#include "codes.h"
#include "vec_power.h"

#define GREATEST_WEIGHT_CODE 32767

/* The sum over the dimensions of a wide head must fit 32 bits, too. */
static int32_t greatest_query_code(int32_t head_dim)
{
    int32_t fitting = INT32_MAX / (KV_GREATEST_CODE * head_dim);
    return fitting < INT16_MAX ? fitting : INT16_MAX;
}

#if defined(__AMX_INT8__)

/* Write a row of [query][width] codes. */
static void store_codes(void *codes, int32_t width, int32_t row, const float *values,
                        int32_t count, float factor)
{
    uint8_t *high = (uint8_t *)codes + row * width;
    uint8_t *low = high + ATTENTION_MAX_QUERIES * width;
    for (int32_t i = 0; i < count; i += VEC_LANES) {
        vec_i32 vector = codes_of(vec_load(values + i), factor);
        codes_store8(high + i, vector >> 8);
        codes_store8(low + i, vector & 255);
    }
}

#else

/* 0 1 2 3 becomes 0 2 1 3. */
static void swap_middles(int16_t *codes, int32_t count)
{
    for (int32_t i = 0; i < count; i += 4) {
        uint64_t four;
        memcpy(&four, codes + i, sizeof four);
        four = (four & 0xffff00000000ffff) | (four >> 16 & 0xffff0000) |
               (four & 0xffff0000) << 16;
        memcpy(codes + i, &four, sizeof four);
    }
}

static void store_codes(void *codes, int32_t width, int32_t row, const float *values,
                        int32_t count, float factor)
{
    int16_t *words = (int16_t *)codes + row * width;
    for (int32_t i = 0; i < count; i += VEC_LANES)
        codes_store16(words + i, codes_of(vec_load(values + i), factor));
    swap_middles(words, count);
}

#endif

void KERNEL(attention_store_quantized)(const struct attention *attention, int32_t query,
                                       const float *values, float scale)
{
    int32_t head_dim = attention->head_dim;
    struct code_steps steps = codes_steps(codes_greatest(values, head_dim),
                                          greatest_query_code(head_dim));
    attention->scratch->query_scales[query] = steps.scale * scale;
    store_codes(attention->queries, head_dim, query, values, head_dim, steps.factor);
}

struct weights {
    vec total;
    vec greatest; /* of those that are times their value's scale */
};

/* Make weights of the scores of a block. */
KERNEL_INLINE void weigh_block(float *scores, const float *value_scales, float greatest,
                               struct weights *weights)
{
    for (int32_t t = 0; t < KV_BLOCK_TOKENS; t += VEC_LANES) {
        vec weight = vec_power_below(vec_load(scores + t), greatest);
        vec scaled = weight * vec_load(value_scales + t);
        vec_store(scores + t, scaled);
        weights->total += weight;
        weights->greatest = codes_greater(weights->greatest, scaled);
    }
}

float KERNEL(attention_exponentiate_quantized)(const struct attention *attention, int32_t query,
                                               int32_t num_tokens, float greatest)
{
    struct attention_scratch *scratch = attention->scratch;
    float *scores = scratch->scores[query];
    struct weights weights = {vec_set1(0.0f), vec_set1(0.0f)};
    (void)num_tokens; /* those that are in no block have no scale, and meet no value */
    for (int32_t block = 0; block < attention->num_blocks; block++)
        weigh_block(scores + block * KV_BLOCK_TOKENS,
                    (const float *)attention_values(attention, block), greatest, &weights);
    struct code_steps steps = codes_steps(codes_greatest_lane(weights.greatest),
                                          GREATEST_WEIGHT_CODE);
    scratch->weight_scales[query] = steps.scale;
    store_codes(scratch->weight_codes, ATTENTION_PART_TOKENS, query, scores,
                attention->num_blocks * KV_BLOCK_TOKENS, steps.factor);
    return vec_sum(weights.total);
}
