/* kv_write: keys and values into their blocks (kv_cache.h has the layouts).
 *
 * All formats are words of 32 bits. Keys are [word][token]: a token's words lie a line apart, and
 * tokens that follow each other in a block are transposed together, line by line (kv_transpose.h).
 * Values are [tokens of a word][dimension]: a word takes as many tokens as it has parts.
 *
 * The first token of a block clears the other values. They are multiplied by weights of 0 until
 * they are written, and the block's last sequence may have left a NaN there. (Scores of keys that
 * are not visible are not used, whatever they are.)
 */
#include "codes.h"
#include "kernels.h"
#include "kv_transpose.h"
#include "vec_bf16.h"

/* Tokens of a tile that follow each other in a block. */
struct run {
    const float *rows; /* of the first token; row_stride floats apart */
    int32_t row_stride;
    int32_t head_dim;
    char *block;
    int32_t slot; /* of the first token */
    int32_t num_tokens;
};

/* Consecutive dimensions of keys, or consecutive tokens of values, that share a word. */
KERNEL_INLINE int32_t word_parts(enum kv_format format)
{
    return format == KV_INT8 ? 4 : format == KV_BF16 ? 2 : 1;
}

static const float *row_of(const struct run *run, int32_t token)
{
    return run->rows + (size_t)token * (size_t)run->row_stride;
}

/* Writes the scales that the format has. The factors make codes of the tokens' values. */
KERNEL_INLINE uint32_t *begin_words(enum kv_format format, const struct run *run, float *factors)
{
    if (format != KV_INT8)
        return (uint32_t *)run->block;
    for (int32_t i = 0; i < run->num_tokens; i++) {
        float greatest = codes_greatest(row_of(run, i), run->head_dim);
        struct code_steps steps = codes_steps(greatest, KV_GREATEST_CODE);
        ((float *)run->block)[run->slot + i] = steps.scale;
        factors[i] = steps.factor;
    }
    return (uint32_t *)(run->block + KV_SCALES_BYTES);
}

/* ---- keys ---- */

/* Some words of a token, in order. */
KERNEL_INLINE void make_words(enum kv_format format, const float *values, float factor,
                              int32_t num_words, uint32_t *words)
{
    if (format == KV_F32)
        memcpy(words, values, (size_t)num_words * sizeof *words);
    for (int32_t i = 0; format == KV_BF16 && i < 2 * num_words; i += VEC_LANES)
        vec_store_bf16((bf16 *)words + i, vec_load(values + i));
    for (int32_t i = 0; format == KV_INT8 && i < 4 * num_words; i += VEC_LANES)
        codes_store8((int8_t *)words + i, codes_of(vec_load(values + i), factor));
}

KERNEL_INLINE void write_keys(enum kv_format format, const struct run *run)
{
    int32_t num_words = run->head_dim / word_parts(format);
    float factors[KV_BLOCK_TOKENS] = {0};
    uint32_t *lines = begin_words(format, run, factors) + run->slot;
    struct kv_square square;
    for (int32_t first = 0; first < num_words; first += KV_SQUARE_WORDS) {
        int32_t rest = num_words - first;
        int32_t count = rest < KV_SQUARE_WORDS ? rest : KV_SQUARE_WORDS;
        for (int32_t i = 0; i < run->num_tokens; i++)
            make_words(format, row_of(run, i) + first * word_parts(format), factors[i], count,
                       square.words[i]);
        kv_store_transposed(&square, run->num_tokens, count, lines + first * KV_BLOCK_TOKENS);
    }
}

/* ---- values ---- */

/* In the low bits of each lane; the others are 0. */
KERNEL_INLINE vec_u32 word_part(enum kv_format format, vec values, float factor)
{
    if (format == KV_INT8)
        return (vec_u32)codes_of(values, factor) & 0xff;
    return format == KV_BF16 ? vec_round_bf16(values) : (vec_u32)values;
}

/* One token's parts of the words that it shares with others. */
KERNEL_INLINE void write_value(enum kv_format format, const float *values, int32_t head_dim,
                               float factor, int32_t part, uint32_t *words)
{
    int32_t part_bits = 32 / word_parts(format);
    uint32_t others = format == KV_F32 ? 0 : ~(((1u << part_bits % 32) - 1) << part * part_bits);
    for (int32_t d = 0; d < head_dim; d += VEC_LANES) {
        vec_u32 stored;
        memcpy(&stored, words + d, sizeof stored);
        stored &= others;
        stored |= word_part(format, vec_load(values + d), factor) << (part * part_bits);
        memcpy(words + d, &stored, sizeof stored);
    }
}

KERNEL_INLINE void write_values(enum kv_format format, const struct run *run)
{
    float factors[KV_BLOCK_TOKENS] = {0};
    if (run->slot == 0 && run->num_tokens < KV_BLOCK_TOKENS)
        memset(run->block, 0, kv_block_bytes(format, run->head_dim));
    uint32_t *words = begin_words(format, run, factors);
    for (int32_t i = 0; i < run->num_tokens; i++) {
        int32_t slot = run->slot + i, parts = word_parts(format);
        write_value(format, row_of(run, i), run->head_dim, factors[i], slot % parts,
                    words + slot / parts * run->head_dim);
    }
}

/* ---- tiles ---- */

static int32_t run_length(const int32_t *blocks, const int32_t *positions, int32_t num_rows)
{
    int32_t slot = positions[0] % KV_BLOCK_TOKENS, length = 1;
    while (length < num_rows && slot + length < KV_BLOCK_TOKENS && blocks[length] == blocks[0] &&
           positions[length] == positions[0] + length)
        length++;
    return length;
}

typedef void write_run(const struct run *run);

/* The blocks of a layer and head. */
struct blocks {
    char *first;
    size_t block_bytes;
    size_t segment_bytes;
};

static struct blocks blocks_of(const struct kv_cache *cache, void *values, int32_t layer,
                               int32_t head)
{
    return (struct blocks){
        .first = (char *)values + kv_block_offset(cache, layer, head, 0),
        .block_bytes = kv_block_bytes(cache->format, cache->head_dim),
        .segment_bytes = kv_segment_bytes(cache),
    };
}

static char *block_at(const struct blocks *blocks, int32_t block)
{
    return blocks->first + kv_block_distance(blocks->segment_bytes, blocks->block_bytes, block);
}

/* A whole block: a key goes to all its lines, and attention is going to read those of values. A
 * decoding step of 64 sequences takes 4 % less time so. */
static void prefetch_block(const struct blocks *blocks, int32_t block)
{
    const char *lines = block_at(blocks, block);
    for (size_t i = 0; i < blocks->block_bytes; i += PREFETCH_LINE_BYTES)
        __builtin_prefetch(lines + i, 1);
}

static void write_tile(const struct blocks *in, const int32_t *blocks,
                       const int32_t *positions, const struct product_tile *tile,
                       int32_t head_dim, write_run *write)
{
    struct run run = {.row_stride = tile->stride, .head_dim = head_dim};
    for (int32_t i = 0; i < tile->num_rows; i += run.num_tokens) {
        run.rows = tile->values + (size_t)i * (size_t)tile->stride;
        run.block = block_at(in, blocks[i]);
        run.slot = positions[i] % KV_BLOCK_TOKENS;
        run.num_tokens = run_length(blocks + i, positions + i, tile->num_rows - i);
        if (i + run.num_tokens < tile->num_rows)
            prefetch_block(in, blocks[i + run.num_tokens]);
        write(&run);
    }
}

static void write_keys_f32(const struct run *run)
{
    write_keys(KV_F32, run);
}

static void write_keys_bf16(const struct run *run)
{
    write_keys(KV_BF16, run);
}

static void write_keys_int8(const struct run *run)
{
    write_keys(KV_INT8, run);
}

static void write_values_f32(const struct run *run)
{
    write_values(KV_F32, run);
}

static void write_values_bf16(const struct run *run)
{
    write_values(KV_BF16, run);
}

static void write_values_int8(const struct run *run)
{
    write_values(KV_INT8, run);
}

void KERNEL(kv_write_keys)(const struct kv_cache *cache, int32_t layer, int32_t head,
                           const int32_t *blocks, const int32_t *positions,
                           const struct product_tile *tile)
{
    write_run *const writes[NUM_KV_FORMATS] = {write_keys_f32, write_keys_bf16, write_keys_int8};
    struct blocks keys = blocks_of(cache, cache->keys, layer, head);
    write_tile(&keys, blocks, positions, tile, cache->head_dim, writes[cache->format]);
}

void KERNEL(kv_write_values)(const struct kv_cache *cache, int32_t layer, int32_t head,
                             const int32_t *blocks, const int32_t *positions,
                             const struct product_tile *tile)
{
    write_run *const writes[NUM_KV_FORMATS] = {write_values_f32, write_values_bf16,
                                               write_values_int8};
    struct blocks values = blocks_of(cache, cache->values, layer, head);
    write_tile(&values, blocks, positions, tile, cache->head_dim, writes[cache->format]);
}
