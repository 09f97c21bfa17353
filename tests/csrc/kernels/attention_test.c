/* Attention over a paged cache against its definition in double, and what must not change a bit:
 * the other rows of a tile, where the blocks lie, and what is behind a sequence's end. */
#include "kernel_test.h"

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

/* ---- tests ---- */

static void tile_equals_the_definition(const struct sequence *sequence, int32_t group,
                                       int32_t first_position, int32_t num_rows)
{
    struct rows rows = new_rows(sequence, group, first_position, num_rows, 3);
    attend(sequence, &rows, 0, num_rows);
    check_rows(sequence, &rows);
    free_rows(&rows);
}

static void every_shape_equals_the_definition(enum kv_format format)
{
    static const int32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 40};
    static const int32_t head_dims[] = {32, 64, 96, 128, 256};
    for (size_t i = 0; i < sizeof head_dims / sizeof *head_dims; i++) {
        struct sequence sequence = random_sequence(format, head_dims[i]);
        for (size_t j = 0; j < sizeof groups / sizeof *groups; j++) {
            int32_t position = test_below(100);
            int32_t num_rows = 1 + test_below(ATTENTION_MAX_ROWS(groups[j]));
            tile_equals_the_definition(&sequence, groups[j], position, num_rows);
        }
        free_sequence(&sequence);
    }
}

/* Around the ends of blocks and of parts. */
static void every_position_equals_the_definition(enum kv_format format)
{
    static const int32_t positions[] = {0, 1, 14, 15, 16, 31, 32, 239, 240, 254, 255,
                                        256, 257, 271, 272, 511, 512, 513, 767, 768, 790};
    struct sequence sequence = random_sequence(format, 64);
    for (size_t i = 0; i < sizeof positions / sizeof *positions; i++) {
        tile_equals_the_definition(&sequence, 3, positions[i], 1);
        tile_equals_the_definition(&sequence, 2, positions[i], 8);
    }
    free_sequence(&sequence);
}

static void a_row_has_the_same_bits_alone_and_in_any_tile(enum kv_format format, int32_t group,
                                                          int32_t first_position)
{
    int32_t num_rows = ATTENTION_MAX_ROWS(group);
    struct sequence sequence = random_sequence(format, 64);
    struct rows rows = new_rows(&sequence, group, first_position, num_rows, 3);
    size_t size = (size_t)num_rows * (size_t)rows.stride * sizeof(float);
    float *together = test_alloc(size);
    attend(&sequence, &rows, 0, num_rows);
    memcpy(together, rows.out, size);

    for (int32_t row = 0; row < num_rows; row++)
        attend(&sequence, &rows, row, 1);
    CHECK(memcmp(rows.out, together, size) == 0);
    attend(&sequence, &rows, num_rows / 3, num_rows - num_rows / 3);
    CHECK(memcmp(rows.out, together, size) == 0);
    test_free(together);
    free_rows(&rows);
    free_sequence(&sequence);
}

/* What an earlier sequence left in a block: finite, however large. */
static void what_lies_behind_the_end_changes_no_bit(enum kv_format format, int32_t num_tokens)
{
    struct sequence sequence = new_sequence(format, 64);
    fill_tokens(&sequence, 0, num_tokens, 2);
    struct rows rows = new_rows(&sequence, 3, num_tokens - 1, 1, 3);
    size_t size = (size_t)rows.stride * sizeof(float);
    float *before = test_alloc(size);
    attend(&sequence, &rows, 0, 1);
    memcpy(before, rows.out, size);

    fill_tokens(&sequence, num_tokens, MAX_TOKENS, 1e30f);
    attend(&sequence, &rows, 0, 1);
    CHECK(memcmp(rows.out, before, size) == 0);
    test_free(before);
    free_rows(&rows);
    free_sequence(&sequence);
}

static void the_place_of_a_block_changes_no_bit(enum kv_format format)
{
    struct sequence sequence = random_sequence(format, 64);
    struct rows rows = new_rows(&sequence, 3, 600, 5, 3);
    size_t size = 5 * (size_t)rows.stride * sizeof(float);
    float *before = test_alloc(size);
    attend(&sequence, &rows, 0, 5);
    memcpy(before, rows.out, size);

    for (int32_t i = 0; i < MAX_BLOCKS; i++)
        sequence.block_table[i] = i;
    for (int32_t token = 0; token < MAX_TOKENS; token++)
        write_token(&sequence, token);
    attend(&sequence, &rows, 0, 5);
    CHECK(memcmp(rows.out, before, size) == 0);
    test_free(before);
    free_rows(&rows);
    free_sequence(&sequence);
}

/* One key agrees with the query and the others contradict it, by far more than e^x can tell. */
static void an_overwhelming_token_gives_its_own_value(enum kv_format format, int32_t winner)
{
    enum { HEAD_DIM = 64, NUM_TOKENS = 700 };
    struct sequence sequence = random_sequence(format, HEAD_DIM);
    struct rows rows = new_rows(&sequence, 1, NUM_TOKENS - 1, 1, 0);
    for (int32_t d = 0; d < HEAD_DIM; d++)
        rows.queries[d] = 100;
    for (int32_t token = 0; token < NUM_TOKENS; token++) {
        for (int32_t d = 0; d < HEAD_DIM; d++)
            sequence.keys[token * HEAD_DIM + d] = token == winner ? 4 : -4;
        write_token(&sequence, token);
    }
    attend(&sequence, &rows, 0, 1);
    double tolerance = format == KV_INT8 ? 0x1p-21 : 0; /* its scale was rounded on the way */
    for (int32_t d = 0; d < HEAD_DIM; d++)
        CHECK_RELATIVE(rows.out[d], sequence.values[winner * HEAD_DIM + d], tolerance);
    free_rows(&rows);
    free_sequence(&sequence);
}

/* Scores that no level rounds, and values that show the weight of each token in a dimension. */
static void weights_are_the_exponentials_of_the_scores(enum kv_format format)
{
    enum { HEAD_DIM = 64, NUM_TOKENS = 64 };
    const double rounding = is_rounding(format) ? WEIGHT_ROUNDING : 0x1p-20;
    struct sequence sequence = new_sequence(format, HEAD_DIM);
    struct rows rows = new_rows(&sequence, 1, NUM_TOKENS - 1, 1, 0);
    double total = 0;
    rows.queries[0] = 8; /* the root of 64 */
    for (int32_t t = 0; t < NUM_TOKENS; t++) {
        sequence.keys[t * HEAD_DIM] = test_uniform(-12, 0);
        sequence.values[t * HEAD_DIM + t] = 1;
        write_token(&sequence, t);
        total += exp(sequence.keys[t * HEAD_DIM]);
    }
    attend(&sequence, &rows, 0, 1);
    for (int32_t t = 0; t < NUM_TOKENS; t++) {
        double weight = exp(sequence.keys[t * HEAD_DIM]);
        double error = weight * rounding + weight_step(format);
        CHECK_CLOSE(rows.out[t], weight / total, error / total);
    }
    free_rows(&rows);
    free_sequence(&sequence);
}

static void test_format(enum kv_format format)
{
    for (int i = 0; i < 20; i++)
        weights_are_the_exponentials_of_the_scores(format);
    every_shape_equals_the_definition(format);
    every_position_equals_the_definition(format);
    for (int32_t group = 1; group <= 5; group += 2) {
        a_row_has_the_same_bits_alone_and_in_any_tile(format, group, 0);
        a_row_has_the_same_bits_alone_and_in_any_tile(format, group, 250);
        a_row_has_the_same_bits_alone_and_in_any_tile(format, group, 509);
    }
    for (int32_t num_tokens = 1; num_tokens < 300; num_tokens += 19)
        what_lies_behind_the_end_changes_no_bit(format, num_tokens);
    the_place_of_a_block_changes_no_bit(format);
    for (int32_t winner = 0; winner < 700; winner += 99)
        an_overwhelming_token_gives_its_own_value(format, winner);
}

int main(void)
{
    kernel_test_begin();
    test_format(KV_F32);
    test_format(KV_BF16);
    test_format(KV_INT8);
    puts("attention: ok");
    return 0;
}
