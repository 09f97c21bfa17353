/* kv_write: one token's key and value into their block (kv_cache.h has the layouts).
 *
 * The first token of a block clears the other values. They are multiplied by weights of 0 until
 * they are written, and the block's last sequence may have left a NaN there. (Scores of keys that
 * are not visible are not used, whatever they are.)
 */
#include "codes.h"
#include "kernels.h"
#include "vec_bf16.h"

#define ROUNDED_VALUES 32 /* every head_dim is a multiple */

static void write_key_f32(float *block, int32_t head_dim, int32_t slot, const float *key)
{
    for (int32_t d = 0; d < head_dim; d++)
        block[d * KV_BLOCK_TOKENS + slot] = key[d];
}

static void write_value_f32(float *block, int32_t head_dim, int32_t slot, const float *value)
{
    memcpy(block + slot * head_dim, value, (size_t)head_dim * sizeof(float));
}

static void round_values(const float *values, bf16 *rounded)
{
    for (int32_t i = 0; i < ROUNDED_VALUES; i += VEC_LANES)
        vec_store_bf16(rounded + i, vec_load(values + i));
}

static void write_key_bf16(bf16 *block, int32_t head_dim, int32_t slot, const float *key)
{
    bf16 rounded[ROUNDED_VALUES];
    for (int32_t first = 0; first < head_dim; first += ROUNDED_VALUES) {
        round_values(key + first, rounded);
        bf16 *pairs = block + first * KV_BLOCK_TOKENS + 2 * slot;
        for (int32_t d = 0; d < ROUNDED_VALUES; d += 2)
            memcpy(pairs + d * KV_BLOCK_TOKENS, rounded + d, 2 * sizeof(bf16));
    }
}

static void write_value_bf16(bf16 *block, int32_t head_dim, int32_t slot, const float *value)
{
    bf16 rounded[ROUNDED_VALUES];
    bf16 *token = block + slot / 2 * 2 * head_dim + slot % 2;
    for (int32_t first = 0; first < head_dim; first += ROUNDED_VALUES) {
        round_values(value + first, rounded);
        for (int32_t d = 0; d < ROUNDED_VALUES; d++)
            token[2 * (first + d)] = rounded[d];
    }
}

/* Stores the scale of a token's values. */
static float begin_int8(char *block, int32_t head_dim, int32_t slot, const float *values)
{
    struct code_steps steps = codes_steps(codes_greatest(values, head_dim), KV_GREATEST_CODE);
    memcpy(block + (size_t)slot * sizeof(float), &steps.scale, sizeof steps.scale);
    return steps.factor;
}

static void quantize_values(const float *values, float factor, int8_t *codes)
{
    for (int32_t i = 0; i < ROUNDED_VALUES; i += VEC_LANES)
        codes_store8(codes + i, codes_of(vec_load(values + i), factor));
}

static void write_key_int8(char *block, int32_t head_dim, int32_t slot, const float *key)
{
    int8_t codes[ROUNDED_VALUES];
    float factor = begin_int8(block, head_dim, slot, key);
    for (int32_t first = 0; first < head_dim; first += ROUNDED_VALUES) {
        quantize_values(key + first, factor, codes);
        char *fours = block + KV_SCALES_BYTES + first * KV_BLOCK_TOKENS + 4 * slot;
        for (int32_t d = 0; d < ROUNDED_VALUES; d += 4)
            memcpy(fours + d * KV_BLOCK_TOKENS, codes + d, 4);
    }
}

static void write_value_int8(char *block, int32_t head_dim, int32_t slot, const float *value)
{
    int8_t codes[ROUNDED_VALUES];
    float factor = begin_int8(block, head_dim, slot, value);
    int8_t *token = (int8_t *)block + KV_SCALES_BYTES + slot / 4 * 4 * head_dim + slot % 4;
    for (int32_t first = 0; first < head_dim; first += ROUNDED_VALUES) {
        quantize_values(value + first, factor, codes);
        for (int32_t d = 0; d < ROUNDED_VALUES; d++)
            token[4 * (first + d)] = codes[d];
    }
}

static void *block_in(void *values, const struct kv_cache *cache, int32_t layer, int32_t head,
                      int32_t block)
{
    return (char *)values + kv_block_offset(cache, layer, head, block);
}

void KERNEL(kv_write_key)(const struct kv_cache *cache, int32_t layer, int32_t head, int32_t block,
                          int32_t slot, const float *key)
{
    void *keys = block_in(cache->keys, cache, layer, head, block);
    if (cache->format == KV_F32)
        write_key_f32(keys, cache->head_dim, slot, key);
    else if (cache->format == KV_INT8)
        write_key_int8(keys, cache->head_dim, slot, key);
    else
        write_key_bf16(keys, cache->head_dim, slot, key);
}

void KERNEL(kv_write_value)(const struct kv_cache *cache, int32_t layer, int32_t head,
                            int32_t block, int32_t slot, const float *value)
{
    void *values = block_in(cache->values, cache, layer, head, block);
    if (slot == 0)
        memset(values, 0, kv_block_bytes(cache->format, cache->head_dim));
    if (cache->format == KV_F32)
        write_value_f32(values, cache->head_dim, slot, value);
    else if (cache->format == KV_INT8)
        write_value_int8(values, cache->head_dim, slot, value);
    else
        write_value_bf16(values, cache->head_dim, slot, value);
}
