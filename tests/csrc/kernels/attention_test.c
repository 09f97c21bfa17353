/* Attention over a paged cache against its definition in double, and what must not change a bit:
 * the other rows of a tile, where the blocks lie, and what is behind a sequence's end. */
#include "kernel_test.h"

#include "attention_checks.h"

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
