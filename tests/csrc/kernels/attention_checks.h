/* What the tests of attention share: a sequence in a paged cache, rows of queries, and attention's
 * definition in double. */
#ifndef ATTENTION_CHECKS_H
#define ATTENTION_CHECKS_H

#include <stdbool.h>

#include "bf16.h"
#include "kernels.h"

#define NUM_LAYERS 2
#define NUM_HEADS 2
#define LAYER 1
#define HEAD 1
#define MAX_TOKENS 800
#define MAX_BLOCKS (MAX_TOKENS / KV_BLOCK_TOKENS)
#define CACHE_BLOCKS 130 /* in three segments of 64 */
/* Relative: of bf16, and of a weight over the total of the weights, both of which were rounded. */
#define BF16_ROUNDING 0x1p-8
#define WEIGHT_ROUNDING (2.01 * BF16_ROUNDING)

#define ROW_GAP 32 /* floats between rows that belong to nobody */

/* ---- a sequence in a cache ---- */

struct sequence {
    struct kv_cache cache;
    int32_t block_table[MAX_BLOCKS];
    float *keys; /* [token][head_dim]: what the cache holds of the layer and head, as floats */
    float *values;
};

/* What the cache makes of a token's key or value. */
static void round_token(enum kv_format format, float *token, int32_t head_dim)
{
    float greatest = 0;
    for (int32_t d = 0; d < head_dim; d++)
        greatest = fmaxf(greatest, fabsf(token[d]));
    for (int32_t d = 0; d < head_dim && greatest > 0; d++) {
        if (format == KV_BF16)
            token[d] = bf16_to_float(bf16_from_float(token[d]));
        else if (format == KV_INT8)
            token[d] = rintf(token[d] * (127 / greatest)) * (greatest / 127);
    }
}

static void shuffle(int32_t *numbers, int32_t count)
{
    for (int32_t i = count - 1; i > 0; i--) {
        int32_t other = test_below(i + 1), number = numbers[i];
        numbers[i] = numbers[other];
        numbers[other] = number;
    }
}

/* Zeros in a cache whose blocks are given out in disorder. */
static struct sequence new_sequence(enum kv_format format, int32_t head_dim)
{
    int32_t blocks[CACHE_BLOCKS];
    struct sequence sequence = {.cache = {.format = format, .num_layers = NUM_LAYERS,
                                          .num_heads = NUM_HEADS, .head_dim = head_dim,
                                          .num_blocks = CACHE_BLOCKS}};
    size_t size = kv_cache_bytes(&sequence.cache);
    size_t num_values = (size_t)MAX_TOKENS * (size_t)head_dim;
    sequence.cache.keys = memset(test_alloc(size), 0, size);
    sequence.cache.values = memset(test_alloc(size), 0, size);
    sequence.keys = test_alloc_floats(num_values, 0, 0);
    sequence.values = test_alloc_floats(num_values, 0, 0);
    for (int32_t i = 0; i < CACHE_BLOCKS; i++)
        blocks[i] = i;
    shuffle(blocks, CACHE_BLOCKS);
    memcpy(sequence.block_table, blocks, sizeof sequence.block_table);
    return sequence;
}

static void free_sequence(struct sequence *sequence)
{
    test_free(sequence->cache.keys), test_free(sequence->cache.values);
    test_free(sequence->keys), test_free(sequence->values);
}

/* A tile of one token. */
static struct product_tile tile_of(const struct sequence *sequence, float *values)
{
    return (struct product_tile){.num_rows = 1,
                                 .num_panels = sequence->cache.head_dim / PANEL_COLUMNS,
                                 .stride = sequence->cache.head_dim, .values = values};
}

/* Give a token the key and value that stand in sequence->keys and sequence->values. */
static void write_token(struct sequence *sequence, int32_t token)
{
    int32_t head_dim = sequence->cache.head_dim;
    int32_t block = sequence->block_table[token / KV_BLOCK_TOKENS];
    float *key = sequence->keys + (size_t)token * (size_t)head_dim;
    float *value = sequence->values + (size_t)token * (size_t)head_dim;
    struct product_tile key_tile = tile_of(sequence, key), value_tile = tile_of(sequence, value);
    KERNEL(kv_write_keys)(&sequence->cache, LAYER, HEAD, &block, &token, &key_tile);
    KERNEL(kv_write_values)(&sequence->cache, LAYER, HEAD, &block, &token, &value_tile);
    round_token(sequence->cache.format, key, head_dim);
    round_token(sequence->cache.format, value, head_dim);
}

static void fill_tokens(struct sequence *sequence, int32_t first, int32_t end, float magnitude)
{
    size_t head_dim = (size_t)sequence->cache.head_dim;
    size_t start = (size_t)first * head_dim, count = (size_t)(end - first) * head_dim;
    test_fill(sequence->keys + start, count, -magnitude, magnitude);
    test_fill(sequence->values + start, count, -magnitude, magnitude);
    for (int32_t token = first; token < end; token++)
        write_token(sequence, token);
}

static struct sequence random_sequence(enum kv_format format, int32_t head_dim)
{
    struct sequence sequence = new_sequence(format, head_dim);
    fill_tokens(&sequence, 0, MAX_TOKENS, 2);
    return sequence;
}

/* ---- rows of queries ---- */

struct rows {
    int32_t group;
    int32_t first_position;
    int32_t num_rows;
    int32_t stride;
    float *queries;
    float *out;
};

static struct rows new_rows(const struct sequence *sequence, int32_t group, int32_t first_position,
                            int32_t num_rows, float magnitude)
{
    struct rows rows = {group, first_position, num_rows, 0, NULL, NULL};
    rows.stride = group * sequence->cache.head_dim + ROW_GAP;
    size_t count = (size_t)num_rows * (size_t)rows.stride;
    rows.queries = test_alloc_floats(count, -magnitude, magnitude);
    rows.out = test_alloc_floats(count, 7, 7);
    return rows;
}

static void free_rows(struct rows *rows)
{
    test_free(rows->queries), test_free(rows->out);
}

/* The blocks of so many tokens and no more: the sanitizer sees who reads further. */
static int32_t *attended_blocks(const struct sequence *sequence, int32_t num_tokens)
{
    size_t num_blocks = ((size_t)num_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    size_t size = num_blocks * sizeof *sequence->block_table;
    return memcpy(test_alloc(size), sequence->block_table, size);
}

static void attend(const struct sequence *sequence, const struct rows *rows, int32_t first_row,
                   int32_t num_rows)
{
    int32_t head_dim = sequence->cache.head_dim;
    int32_t *block_table = attended_blocks(sequence, rows->first_position + first_row + num_rows);
    void *scratch = test_alloc(attention_scratch_bytes(rows->group, head_dim));
    struct attention_tile tile = {
        .layer = LAYER,
        .kv_head = HEAD,
        .group = rows->group,
        .first_position = rows->first_position + first_row,
        .num_rows = num_rows,
        .block_table = block_table,
        .queries = rows->queries + (size_t)first_row * (size_t)rows->stride,
        .out = rows->out + (size_t)first_row * (size_t)rows->stride,
        .row_stride = rows->stride,
    };
    KERNEL(kernel_ops).attend[sequence->cache.format](&sequence->cache, &tile, scratch);
    test_free(scratch), test_free(block_table);
}

/* ---- the definition ---- */

/* Whether this level rounds queries and weights of this format to bf16. */
static bool is_rounding(enum kv_format format)
{
#if defined(__AVX512BF16__)
    return format == KV_BF16;
#else
    (void)format;
    return false;
#endif
}

/* Relative, of the numbers that a query is multiplied with. A query's codes are whole steps of its
 * greatest value / 32767, which is not much more than its average. */
static double score_rounding(enum kv_format format)
{
    if (format == KV_INT8)
        return 0x1p-14;
    return is_rounding(format) ? BF16_ROUNDING : 0x1p-20;
}

static double weight_rounding(enum kv_format format)
{
    return is_rounding(format) ? WEIGHT_ROUNDING : 0x1p-18;
}

/* Absolute: half a step of a weight's code, where the greatest weight is 1. A step is of the
 * greatest weight times its value's scale; no two scales here differ by a factor of 2. */
static double weight_step(enum kv_format format)
{
    return format == KV_INT8 ? 0x1p-15 : 0;
}

struct reference {
    double weights[MAX_TOKENS];
    double total;
    double score_error; /* the most by which rounding may move a score */
};

static void weigh(const struct sequence *sequence, const float *query, int32_t num_tokens,
                  struct reference *reference)
{
    int32_t head_dim = sequence->cache.head_dim;
    double scale = 1 / sqrt(head_dim), greatest = -INFINITY;
    double rounding = score_rounding(sequence->cache.format);
    reference->score_error = reference->total = 0;
    for (int32_t t = 0; t < num_tokens; t++) {
        const float *key = sequence->keys + (size_t)t * (size_t)head_dim;
        double score = 0, magnitude = 0;
        for (int32_t d = 0; d < head_dim; d++) {
            score += (double)query[d] * key[d] * scale;
            magnitude += fabs((double)query[d] * key[d] * scale);
        }
        reference->weights[t] = score;
        reference->score_error = fmax(reference->score_error, magnitude * rounding);
        greatest = fmax(greatest, score);
    }
    for (int32_t t = 0; t < num_tokens; t++)
        reference->total += reference->weights[t] = exp(reference->weights[t] - greatest);
}

static void check_query(const struct sequence *sequence, const float *query, int32_t num_tokens,
                        const float *out)
{
    int32_t head_dim = sequence->cache.head_dim;
    struct reference reference;
    weigh(sequence, query, num_tokens, &reference);
    double step = weight_step(sequence->cache.format);
    double relative = 2 * reference.score_error + weight_rounding(sequence->cache.format);
    for (int32_t d = 0; d < head_dim; d++) {
        double sum = 0, error = 0;
        for (int32_t t = 0; t < num_tokens; t++) {
            double value = sequence->values[t * head_dim + d];
            sum += reference.weights[t] * value;
            error += (reference.weights[t] * relative + step) * fabs(value);
        }
        CHECK_CLOSE(out[d], sum / reference.total, error / reference.total);
    }
}

static void check_rows(const struct sequence *sequence, const struct rows *rows)
{
    int32_t head_dim = sequence->cache.head_dim, width = rows->group * head_dim;
    for (int32_t row = 0; row < rows->num_rows; row++) {
        const float *queries = rows->queries + (size_t)row * (size_t)rows->stride;
        const float *out = rows->out + (size_t)row * (size_t)rows->stride;
        for (int32_t head = 0; head < rows->group; head++)
            check_query(sequence, queries + head * head_dim, rows->first_position + row + 1,
                        out + head * head_dim);
        for (int32_t i = width; i < rows->stride; i++)
            CHECK(out[i] == 7);
    }
}

#endif
