/* attention_amx: the products of attention by AMX tiles.
 *
 * A block's keys are tiles as they stand: 32 dimensions of 16 tokens are 16 rows of 64 bytes. So
 * are its values: 16 tokens of 16 dimensions are 8 rows of 64 bytes, 4 * head_dim bytes apart.
 *
 *   scores [query][16 tokens]     = sum over 32 dimensions of  queries x keys
 *   output [query][16 dimensions] = sum over blocks of         weights x values
 *
 * Tiles have as many rows as there are queries, and no row depends on another. A product of values
 * is half as deep as tiles allow, because a tile's rows lie at one distance and blocks anywhere;
 * with up to 8 queries that costs nothing: a product takes as long as its longer operand.
 *
 * The CPU renames tiles: one for each operand keeps several products under way.
 */
#include <stdbool.h>

#include "attention.h"

#if defined(__AMX_BF16__)

#include "amx.h"

/* Tiles by what they hold. */
#define TILE_SCORES 0
#define TILE_OUTPUT 0
#define TILE_NEXT_OUTPUT 1
#define TILE_QUERIES 2
#define TILE_KEYS 3
#define TILE_WEIGHTS 4
#define TILE_VALUES 5

#define KEY_DIMS 32   /* of a product of keys */
#define VALUE_DIMS 16 /* of a product of values */

static void begin_products(const struct attention *attention)
{
    const uint64_t with_queries = 0x0100010101, with_keys = 0x01000000;
    const uint64_t with_values = 0x010000000000;
    const short weights_bytes = KV_BLOCK_TOKENS * sizeof(bf16);
    amx_load_shapes(amx_shapes(with_queries * (uint64_t)attention->num_queries +
                                   with_keys * (KEY_DIMS / 2) +
                                   with_values * (KV_BLOCK_TOKENS / 2),
                               _mm_setr_epi16(64, 64, 64, 64, weights_bytes, 64, 0, 0)));
}

static void score_block(const struct attention *attention, int32_t block)
{
    const bf16 *queries = attention->queries;
    const char *keys = attention_keys(attention, block);
    const char *after = attention_after_keys(attention, block);
    const int32_t tile_bytes = KEY_DIMS * KV_BLOCK_TOKENS * sizeof(bf16);
    _tile_zero(TILE_SCORES);
    for (int32_t d = 0; d < attention->head_dim; d += KEY_DIMS, keys += tile_bytes) {
        bool is_last = d + KEY_DIMS == attention->head_dim;
        _tile_loadd(TILE_QUERIES, queries + d, (size_t)attention->head_dim * sizeof(bf16));
        _tile_loadd(TILE_KEYS, keys, AMX_ROW_BYTES);
        _tile_dpbf16ps(TILE_SCORES, TILE_QUERIES, TILE_KEYS);
        attention_prefetch(is_last ? after : keys + tile_bytes, tile_bytes);
    }
    _tile_stored(TILE_SCORES, attention->scratch->scores[0] + block * KV_BLOCK_TOKENS,
                 sizeof attention->scratch->scores[0]);
}

static void multiply_keys(const struct attention *attention)
{
    amx_expose(); /* the queries */
    for (int32_t block = 0; block < attention->num_blocks; block++)
        score_block(attention, block);
    amx_expose(); /* the scores */
}

/* Add a block's values to the output tiles of the dimensions from d on, and prefetch meanwhile. */
static void add_values(const struct attention *attention, int32_t block, int32_t d,
                       int32_t prefetch_bytes)
{
    const char *after = attention_after_values(attention, block);
    const char *values = attention_values(attention, block) + 2 * (size_t)d * sizeof(bf16);
    size_t row_bytes = 2 * (size_t)attention->head_dim * sizeof(bf16);
    _tile_loadd(TILE_WEIGHTS, attention->scratch->weights[0] + block * KV_BLOCK_TOKENS,
                sizeof attention->scratch->weights[0]);
    _tile_loadd(TILE_VALUES, values, row_bytes);
    _tile_dpbf16ps(TILE_OUTPUT, TILE_WEIGHTS, TILE_VALUES);
    attention_prefetch(after, prefetch_bytes / 2);
    _tile_loadd(TILE_VALUES, values + AMX_ROW_BYTES, row_bytes);
    _tile_dpbf16ps(TILE_NEXT_OUTPUT, TILE_WEIGHTS, TILE_VALUES);
    attention_prefetch(after + prefetch_bytes / 2, prefetch_bytes / 2);
}

/* Two output tiles go through all blocks: a wait for the one's sum is filled by the other's. */
static void multiply_values(const struct attention *attention)
{
    int32_t prefetch_bytes = (int32_t)attention->block_bytes;
    size_t stride = (size_t)attention->head_dim * sizeof(float);
    amx_expose(); /* the weights and the output */
    for (int32_t d = 0; d < attention->head_dim; d += 2 * VALUE_DIMS) {
        float *output = attention->output + d;
        _tile_loadd(TILE_OUTPUT, output, stride);
        _tile_loadd(TILE_NEXT_OUTPUT, output + VALUE_DIMS, stride);
        for (int32_t block = 0; block < attention->num_blocks; block++)
            add_values(attention, block, d, prefetch_bytes);
        _tile_stored(TILE_OUTPUT, output, stride);
        _tile_stored(TILE_NEXT_OUTPUT, output + VALUE_DIMS, stride);
        prefetch_bytes = 0; /* the first turn saw to all blocks */
    }
    amx_expose(); /* the output */
}

const struct attention_method KERNEL(attention_bf16) = {
    .begin_products = begin_products,
    .store_query = KERNEL(attention_store_rounded),
    .multiply_keys = multiply_keys,
    .exponentiate = KERNEL(attention_exponentiate_rounded),
    .multiply_values = multiply_values,
};

#endif
