/* Keys and values are found in the cache where kv_cache.h says, and nothing else is touched. */
#include "kernel_test.h"

#include <stdbool.h>

#include "bf16.h"
#include "kernels.h"

#define NUM_LAYERS 2
#define NUM_HEADS 2
#define NUM_BLOCKS 67 /* two segments of 64, the second one not filled */
#define MAX_HEAD_DIM 256

static struct kv_cache new_cache(enum kv_format format, int32_t head_dim)
{
    struct kv_cache cache = {.format = format, .num_layers = NUM_LAYERS, .num_heads = NUM_HEADS,
                             .head_dim = head_dim, .num_blocks = NUM_BLOCKS};
    cache.keys = test_alloc(kv_cache_bytes(&cache));
    cache.values = test_alloc(kv_cache_bytes(&cache));
    return cache;
}

static void free_cache(struct kv_cache *cache)
{
    test_free(cache->keys);
    test_free(cache->values);
}

/* ---- the layouts, as kv_cache.h words them ---- */

struct place {
    int32_t layer, head, block, slot;
};

static size_t block_index(struct place place)
{
    size_t segment = (size_t)place.block / 64;
    return ((segment * NUM_LAYERS + (size_t)place.layer) * NUM_HEADS + (size_t)place.head) * 64 +
           (size_t)place.block % 64;
}

static size_t first_value(const struct kv_cache *cache, struct place place)
{
    return block_index(place) * KV_BLOCK_TOKENS * (size_t)cache->head_dim;
}

static size_t key_index(const struct kv_cache *cache, struct place place, int32_t d)
{
    int32_t index = cache->format == KV_F32 ? d * KV_BLOCK_TOKENS + place.slot
                                            : d / 2 * 2 * KV_BLOCK_TOKENS + 2 * place.slot + d % 2;
    return first_value(cache, place) + (size_t)index;
}

static size_t value_index(const struct kv_cache *cache, struct place place, int32_t d)
{
    int32_t t = place.slot, head_dim = cache->head_dim;
    int32_t index = cache->format == KV_F32 ? t * head_dim + d
                                            : t / 2 * 2 * head_dim + 2 * d + t % 2;
    return first_value(cache, place) + (size_t)index;
}

/* ---- one token ---- */

/* Puts one value where it belongs in a copy of the memory that the test keeps. */
static void put(const struct kv_cache *cache, void *memory, size_t index, float value)
{
    if (cache->format == KV_F32)
        ((float *)memory)[index] = value;
    else
        ((bf16 *)memory)[index] = bf16_from_float(value);
}

static void put_floats(const struct kv_cache *cache, struct place place, const float *key,
                       const float *value, void *keys, void *values)
{
    for (int32_t d = 0; d < cache->head_dim; d++) {
        put(cache, keys, key_index(cache, place, d), key[d]);
        put(cache, values, value_index(cache, place, d), value[d]);
    }
}

/* Quantises a token's key or value; gives the scale. */
static float quantize(const float *token, int32_t head_dim, int8_t *codes)
{
    float greatest = 0;
    bool is_finite = true;
    for (int32_t d = 0; d < head_dim; d++) {
        greatest = fmaxf(greatest, fabsf(token[d]));
        is_finite = is_finite && isfinite(token[d]);
    }
    bool has_codes = is_finite && greatest >= 1e-30f;
    for (int32_t d = 0; d < head_dim; d++)
        codes[d] = has_codes ? (int8_t)rintf(token[d] * (127 / greatest)) : 0;
    if (!is_finite)
        return NAN;
    return has_codes ? greatest / 127 : 0;
}

static void put_codes(const struct kv_cache *cache, struct place place, const float *key,
                      const float *value, void *keys, void *values)
{
    int32_t slot = place.slot, head_dim = cache->head_dim;
    size_t block = block_index(place) * (size_t)(64 + KV_BLOCK_TOKENS * head_dim);
    int8_t *key_block = (int8_t *)keys + block, *value_block = (int8_t *)values + block;
    int8_t key_codes[MAX_HEAD_DIM], value_codes[MAX_HEAD_DIM];
    ((float *)key_block)[slot] = quantize(key, head_dim, key_codes);
    ((float *)value_block)[slot] = quantize(value, head_dim, value_codes);
    for (int32_t d = 0; d < head_dim; d++) {
        key_block[64 + d / 4 * 64 + slot * 4 + d % 4] = key_codes[d];
        value_block[64 + slot / 4 * 4 * head_dim + d * 4 + slot % 4] = value_codes[d];
    }
}

/* The first token of a block leaves nothing of the values that were there. */
static void clear_values(const struct kv_cache *cache, struct place place, char *values)
{
    size_t block_bytes = kv_cache_bytes(cache) / (NUM_LAYERS * NUM_HEADS * 2 * 64);
    memset(values + block_index(place) * block_bytes, 0, block_bytes);
}

static void check_same(const struct kv_cache *cache, const void *expected, const void *found)
{
    size_t size = kv_cache_bytes(cache);
    if (cache->format != KV_INT8) {
        CHECK(memcmp(expected, found, size) == 0);
        return;
    }
    for (size_t i = 0; i < size; i += sizeof(float)) {
        float scale;
        memcpy(&scale, (const char *)expected + i, sizeof scale);
        bool is_same = memcmp((const char *)expected + i, (const char *)found + i, 4) == 0;
        if (!is_same) { /* NaN is NaN, whatever its bits */
            CHECK(isnan(scale));
            memcpy(&scale, (const char *)found + i, sizeof scale);
            CHECK(isnan(scale));
        }
    }
}

/* Keys or values, one after the other. */
static struct product_tile tile_of(const struct kv_cache *cache, int32_t num_rows,
                                   const float *values)
{
    return (struct product_tile){.num_rows = num_rows,
                                 .num_panels = cache->head_dim / PANEL_COLUMNS,
                                 .stride = cache->head_dim, .values = (float *)values};
}

static void write_token(const struct kv_cache *cache, struct place place, const float *key,
                        const float *value)
{
    struct product_tile keys = tile_of(cache, 1, key), values = tile_of(cache, 1, value);
    int32_t position = 5 * KV_BLOCK_TOKENS + place.slot;
    KERNEL(kv_write_keys)(cache, place.layer, place.head, &place.block, &position, &keys);
    KERNEL(kv_write_values)(cache, place.layer, place.head, &place.block, &position, &values);
}

static void check_token(struct kv_cache *cache, struct place place, const float *key,
                        const float *value)
{
    size_t size = kv_cache_bytes(cache);
    CHECK(place.head < NUM_HEADS);
    void *keys = malloc(size), *values = malloc(size);
    CHECK(keys != NULL && values != NULL);
    memcpy(keys, cache->keys, size);
    memcpy(values, cache->values, size);
    if (place.slot == 0)
        clear_values(cache, place, values);
    if (cache->format == KV_INT8)
        put_codes(cache, place, key, value, keys, values);
    else
        put_floats(cache, place, key, value, keys, values);
    write_token(cache, place, key, value);
    check_same(cache, keys, cache->keys);
    check_same(cache, values, cache->values);
    free(keys), free(values);
}

static void a_token_changes_its_own_values_and_no_others(enum kv_format format, int32_t head_dim)
{
    struct kv_cache cache = new_cache(format, head_dim);
    for (int32_t slot = 0; slot < KV_BLOCK_TOKENS; slot++) {
        float *key = test_alloc_floats((size_t)head_dim, -4, 4);
        float *value = test_alloc_floats((size_t)head_dim, -4, 4);
        struct place place = {test_below(NUM_LAYERS), test_below(NUM_HEADS),
                              test_below(NUM_BLOCKS), slot};
        check_token(&cache, place, key, value);
        test_free(key), test_free(value);
    }
    free_cache(&cache);
}

static void special_values_are_rounded_as_one_by_one(void)
{
    static const float specials[] = {0,      -0.0f,     INFINITY,         -INFINITY, NAN,
                                     1e-40f, -1e-40f,   3.4e38f,          -3.4e38f,  0x1.01p0f,
                                     1e-45f, 0x1.03p0f, 0x1.010002p0f, -0x1.01p0f};
    enum { HEAD_DIM = 32, NUM_SPECIALS = sizeof specials / sizeof *specials };
    struct kv_cache cache = new_cache(KV_BF16, HEAD_DIM);
    float *row = test_alloc(HEAD_DIM * sizeof(float));
    for (int32_t d = 0; d < HEAD_DIM; d++)
        row[d] = specials[d % NUM_SPECIALS];
    check_token(&cache, (struct place){1, 1, 3, 5}, row, row);
    test_free(row);
    free_cache(&cache);
}

/* What codes cannot stand for must not look like numbers, and what is as good as zero is zero. */
static void tokens_of_special_values_have_codes_that_say_so(void)
{
    static const float specials[] = {INFINITY, -INFINITY, NAN, 1e-31f, -1e-45f, 0, -0.0f, 3.4e38f};
    enum { HEAD_DIM = 32, NUM_SPECIALS = sizeof specials / sizeof *specials };
    struct kv_cache cache = new_cache(KV_INT8, HEAD_DIM);
    for (int32_t i = 0; i < NUM_SPECIALS; i++) {
        float *key = test_alloc_floats(HEAD_DIM, -1e-32f, 1e-32f);
        float *value = test_alloc_floats(HEAD_DIM, -3, 3);
        key[7] = value[9] = specials[i];
        check_token(&cache, (struct place){1, 1, 3, i}, key, value);
        test_free(key), test_free(value);
    }
    free_cache(&cache);
}

/* Ties, and the two values of the greatest magnitude. */
static void codes_are_the_nearest_whole_numbers_ties_to_even(void)
{
    static const float steps[] = {127, -127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f, 0.49f, -2.51f};
    static const int8_t expected[] = {127, -127, 0, 2, 2, 0, -2, 126, 0, -3};
    enum { HEAD_DIM = 32, NUM_STEPS = sizeof steps / sizeof *steps };
    struct kv_cache cache = new_cache(KV_INT8, HEAD_DIM);
    float *key = test_alloc_floats(HEAD_DIM, 0, 0);
    for (int32_t i = 0; i < NUM_STEPS; i++)
        key[i] = steps[i] * 0x1p-5f;
    write_token(&cache, (struct place){0, 0, 0, 0}, key, key);
    CHECK(((float *)cache.keys)[0] == 0x1p-5f);
    for (int32_t i = 0; i < NUM_STEPS; i++)
        CHECK(((int8_t *)cache.keys)[64 + i / 4 * 64 + i % 4] == expected[i]);
    test_free(key);
    free_cache(&cache);
}

/* ---- tiles ---- */

#define TILE_ROWS 32

struct tokens {
    int32_t blocks[TILE_ROWS];
    int32_t positions[TILE_ROWS];
};

/* Stretches of up to `longest` tokens of a sequence, each in blocks of its own. */
static struct tokens stretches_of(int32_t longest)
{
    struct tokens tokens;
    int32_t row = 0, block = 0;
    while (row < TILE_ROWS) {
        int32_t position = test_below(3 * KV_BLOCK_TOKENS), end = row + 1 + test_below(longest);
        block += test_below(2); /* or the last one again, elsewhere */
        for (; row < end && row < TILE_ROWS; row++, position++) {
            block += position % KV_BLOCK_TOKENS == 0;
            tokens.blocks[row] = block * 5 % NUM_BLOCKS;
            tokens.positions[row] = position;
        }
    }
    return tokens;
}

static void write_tile(const struct kv_cache *cache, const struct tokens *tokens, int32_t num_rows,
                       const float *keys, const float *values)
{
    struct product_tile key_tile = tile_of(cache, num_rows, keys);
    struct product_tile value_tile = tile_of(cache, num_rows, values);
    KERNEL(kv_write_keys)(cache, 1, 0, tokens->blocks, tokens->positions, &key_tile);
    KERNEL(kv_write_values)(cache, 1, 0, tokens->blocks, tokens->positions, &value_tile);
}

static void a_tile_leaves_what_its_tokens_leave_one_by_one(enum kv_format format,
                                                           int32_t head_dim, int32_t longest)
{
    struct kv_cache one_by_one = new_cache(format, head_dim), at_once = new_cache(format, head_dim);
    size_t count = (size_t)(TILE_ROWS * head_dim), size = kv_cache_bytes(&at_once);
    float *keys = test_alloc_floats(count, -4, 4), *values = test_alloc_floats(count, -4, 4);
    struct tokens tokens = stretches_of(longest);
    int32_t num_rows = TILE_ROWS - test_below(4);
    for (int32_t i = 0; i < num_rows; i++) {
        struct place place = {1, 0, tokens.blocks[i], tokens.positions[i] % KV_BLOCK_TOKENS};
        write_token(&one_by_one, place, keys + i * head_dim, values + i * head_dim);
    }
    write_tile(&at_once, &tokens, num_rows, keys, values);
    CHECK(memcmp(one_by_one.keys, at_once.keys, size) == 0);
    CHECK(memcmp(one_by_one.values, at_once.values, size) == 0);
    test_free(keys), test_free(values);
    free_cache(&one_by_one), free_cache(&at_once);
}

int main(void)
{
    kernel_test_begin();
    for (int32_t head_dim = 32; head_dim <= MAX_HEAD_DIM; head_dim += 32) {
        for (int i = 0; i < NUM_KV_FORMATS; i++) {
            enum kv_format format = (enum kv_format)i;
            a_token_changes_its_own_values_and_no_others(format, head_dim);
            a_tile_leaves_what_its_tokens_leave_one_by_one(format, head_dim, 1);
            a_tile_leaves_what_its_tokens_leave_one_by_one(format, head_dim, 5);
            a_tile_leaves_what_its_tokens_leave_one_by_one(format, head_dim, 20);
            a_tile_leaves_what_its_tokens_leave_one_by_one(format, head_dim, TILE_ROWS);
        }
    }
    special_values_are_rounded_as_one_by_one();
    tokens_of_special_values_have_codes_that_say_so();
    codes_are_the_nearest_whole_numbers_ties_to_even();
    puts("kv_write: ok");
    return 0;
}
