/* Keys and values are found in the cache where kv_cache.h says, and nothing else is touched. */
#include "kernel_test.h"

#include "bf16.h"
#include "kernels.h"

#define NUM_LAYERS 2
#define NUM_HEADS 3
#define NUM_BLOCKS 4
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

static size_t first_value(const struct kv_cache *cache, struct place place)
{
    size_t row = (size_t)place.layer * NUM_HEADS + (size_t)place.head;
    size_t block = row * NUM_BLOCKS + (size_t)place.block;
    return block * KV_BLOCK_TOKENS * (size_t)cache->head_dim;
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

static void check_token(struct kv_cache *cache, struct place place, const float *key,
                        const float *value)
{
    size_t size = kv_cache_bytes(cache);
    void *keys = malloc(size), *values = malloc(size);
    CHECK(keys != NULL && values != NULL);
    memcpy(keys, cache->keys, size);
    memcpy(values, cache->values, size);
    for (int32_t d = 0; d < cache->head_dim; d++) {
        put(cache, keys, key_index(cache, place, d), key[d]);
        put(cache, values, value_index(cache, place, d), value[d]);
    }
    KERNEL(kv_write_key)(cache, place.layer, place.head, place.block, place.slot, key);
    KERNEL(kv_write_value)(cache, place.layer, place.head, place.block, place.slot, value);
    CHECK(memcmp(keys, cache->keys, size) == 0);
    CHECK(memcmp(values, cache->values, size) == 0);
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
    check_token(&cache, (struct place){1, 2, 3, 5}, row, row);
    test_free(row);
    free_cache(&cache);
}

int main(void)
{
    kernel_test_begin();
    for (int32_t head_dim = 32; head_dim <= MAX_HEAD_DIM; head_dim += 32) {
        a_token_changes_its_own_values_and_no_others(KV_F32, head_dim);
        a_token_changes_its_own_values_and_no_others(KV_BF16, head_dim);
    }
    special_values_are_rounded_as_one_by_one();
    puts("kv_write: ok");
    return 0;
}
