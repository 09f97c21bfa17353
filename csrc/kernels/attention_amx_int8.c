/* attention_amx_int8: the products of attention by AMX tiles, for a cache of 8 bits.
 *
 * A tile multiplies bytes, and queries and weights have two each, so each product is two:
 *
 *   sum of code x key = 256 x sum of high byte x key + sum of low byte x key
 *
 * A block's keys are tiles as they stand: 64 dimensions of 16 tokens are 16 rows of 64 bytes. Its
 * values are only 4 rows deep, and a product of 16 queries takes as long with 4 as with 16: the
 * values of the part are copied together first, so that a tile has the 16 rows of 64 tokens.
 *
 *   scores [query][16 tokens]     = sum over 64 dimensions of  queries x keys
 *   output [query][16 dimensions] = sum over 64 tokens of      weights x values
 */
#include "attention.h"

#if defined(__AMX_INT8__)

#include "amx.h"
#include "vec.h"

/* Tiles by what they hold. */
#define TILE_HIGH_SUMS 0
#define TILE_LOW_SUMS 1
#define TILE_HIGH 2 /* bytes of queries or weights */
#define TILE_LOW 3
#define TILE_CODES 4 /* of keys or values */

#define TILE_COLUMNS 16
#define TILE_DEPTH 64 /* dimensions of a product of keys, tokens of a product of values */
#define TILE_BLOCKS (TILE_DEPTH / KV_BLOCK_TOKENS)

struct sums {
    int32_t high[ATTENTION_MAX_QUERIES][TILE_COLUMNS];
    int32_t low[ATTENTION_MAX_QUERIES][TILE_COLUMNS];
};

static void configure(int32_t num_queries, int32_t depth)
{
    const uint64_t with_queries = 0x01010101, with_codes = 0x0100000000;
    short depth_bytes = (short)depth;
    amx_load_shapes(amx_shapes(with_queries * (uint64_t)num_queries +
                                   with_codes * (uint64_t)(depth / 4),
                               _mm_setr_epi16(64, 64, depth_bytes, depth_bytes, 64, 0, 0, 0)));
}

/* Add a product of queries or weights, from `left` on, with a tile of codes. */
KERNEL_INLINE void add_product(const uint8_t *left, size_t width, const void *codes,
                               size_t code_stride)
{
    _tile_loadd(TILE_CODES, codes, code_stride);
    _tile_loadd(TILE_HIGH, left, width);
    _tile_dpbssd(TILE_HIGH_SUMS, TILE_HIGH, TILE_CODES);
    _tile_loadd(TILE_LOW, left + ATTENTION_MAX_QUERIES * width, width);
    _tile_dpbusd(TILE_LOW_SUMS, TILE_LOW, TILE_CODES);
}

KERNEL_INLINE void store_sums(struct sums *sums)
{
    _tile_stored(TILE_HIGH_SUMS, sums->high, sizeof sums->high[0]);
    _tile_stored(TILE_LOW_SUMS, sums->low, sizeof sums->low[0]);
    amx_expose();
}

KERNEL_INLINE vec sum_of_query(const struct sums *sums, int32_t query)
{
    vec_i32 high, low;
    memcpy(&high, sums->high[query], sizeof high);
    memcpy(&low, sums->low[query], sizeof low);
    return __builtin_convertvector((high << 8) + low, vec);
}

/* ---- keys ---- */

static void score_block(const struct attention *attention, int32_t block, int32_t depth)
{
    struct attention_scratch *scratch = attention->scratch;
    const char *keys = attention_keys(attention, block);
    const char *after = attention_after_keys(attention, block);
    const int32_t tile_bytes = depth * KV_BLOCK_TOKENS;
    vec key_scales = vec_load((const float *)keys);
    struct sums sums;
    attention_prefetch(attention_values(attention, block), KV_SCALES_BYTES); /* for the weights */
    attention_prefetch(after, KV_SCALES_BYTES);
    keys += KV_SCALES_BYTES;
    after += KV_SCALES_BYTES;
    _tile_zero(TILE_HIGH_SUMS);
    _tile_zero(TILE_LOW_SUMS);
    for (int32_t d = 0; d < attention->head_dim; d += depth) {
        add_product((const uint8_t *)attention->queries + d, (size_t)attention->head_dim, keys,
                    AMX_ROW_BYTES);
        attention_prefetch(after, tile_bytes);
        keys += tile_bytes;
        after += tile_bytes;
    }
    store_sums(&sums);
    for (int32_t i = 0; i < attention->num_queries; i++)
        vec_store(scratch->scores[i] + block * KV_BLOCK_TOKENS,
                  sum_of_query(&sums, i) * (key_scales * scratch->query_scales[i]));
}

static void multiply_keys(const struct attention *attention)
{
    int32_t depth = attention->head_dim % TILE_DEPTH == 0 ? TILE_DEPTH : TILE_DEPTH / 2;
    configure(attention->num_queries, depth);
    amx_expose(); /* the queries */
    for (int32_t block = 0; block < attention->num_blocks; block++)
        score_block(attention, block, depth);
}

/* ---- values ---- */

/* Copy the part's values together. Gives the number of tiles that they make one above the other;
 * the last one's rest has weights of 0. */
static int32_t gather_values(const struct attention *attention)
{
    size_t num_bytes = (size_t)KV_BLOCK_TOKENS * (size_t)attention->head_dim;
    char *gathered = attention->workspace;
    for (int32_t block = 0; block < attention->num_blocks; block++) {
        const char *after = attention_after_values(attention, block);
        attention_prefetch(after, (int32_t)attention->block_bytes); /* copying computes nothing */
        memcpy(gathered + (size_t)block * num_bytes,
               attention_values(attention, block) + KV_SCALES_BYTES, num_bytes);
    }
    return (attention->num_blocks + TILE_BLOCKS - 1) / TILE_BLOCKS;
}

/* The weights of what gather_values() left as it was. */
static void clear_rest(const struct attention *attention, int32_t num_tiles)
{
    uint8_t *high = (uint8_t *)attention->scratch->weight_codes;
    uint8_t *low = high + ATTENTION_MAX_QUERIES * ATTENTION_PART_TOKENS;
    int32_t num_tokens = attention->num_blocks * KV_BLOCK_TOKENS;
    size_t rest = (size_t)(num_tiles * TILE_DEPTH - num_tokens);
    for (int32_t i = 0; i < attention->num_queries; i++) {
        memset(high + i * ATTENTION_PART_TOKENS + num_tokens, 0, rest);
        memset(low + i * ATTENTION_PART_TOKENS + num_tokens, 0, rest);
    }
}

/* Add the values of the dimensions from d on. */
static void add_values(const struct attention *attention, int32_t d, int32_t num_tiles)
{
    const struct attention_scratch *scratch = attention->scratch;
    const uint8_t *weights = (const uint8_t *)scratch->weight_codes;
    const char *values = (const char *)attention->workspace + 4 * d;
    size_t row_bytes = 4 * (size_t)attention->head_dim;
    struct sums sums;
    _tile_zero(TILE_HIGH_SUMS);
    _tile_zero(TILE_LOW_SUMS);
    for (int32_t tile = 0; tile < num_tiles; tile++)
        add_product(weights + tile * TILE_DEPTH, ATTENTION_PART_TOKENS,
                    values + (size_t)tile * TILE_DEPTH / 4 * row_bytes, row_bytes);
    store_sums(&sums);
    for (int32_t i = 0; i < attention->num_queries; i++) {
        float *output = attention->output + i * attention->head_dim + d;
        vec_store(output, vec_fma(sum_of_query(&sums, i), vec_set1(scratch->weight_scales[i]),
                                  vec_load(output)));
    }
}

static void multiply_values(const struct attention *attention)
{
    int32_t num_tiles = gather_values(attention);
    clear_rest(attention, num_tiles);
    configure(attention->num_queries, TILE_DEPTH);
    amx_expose(); /* the weights and the values */
    for (int32_t d = 0; d < attention->head_dim; d += TILE_COLUMNS)
        add_values(attention, d, num_tiles);
}

const struct attention_method KERNEL(attention_int8) = {
    .store_query = KERNEL(attention_store_quantized),
    .multiply_keys = multiply_keys,
    .exponentiate = KERNEL(attention_exponentiate_quantized),
    .multiply_values = multiply_values,
};

#endif
