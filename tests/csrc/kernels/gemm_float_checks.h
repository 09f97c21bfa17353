/* What gemm_f32 and gemm_bf16 both promise, checked by multiplying in double precision.
 *
 * Whole numbers up to 8 are exact in bf16, as are their products and sums in float32: with them,
 * any order of summation gives the reference's result to the bit, and a value that is read from a
 * wrong place shows. Other numbers show how large the rounding errors are.
 */
#ifndef GEMM_FLOAT_CHECKS_H
#define GEMM_FLOAT_CHECKS_H

#include "kernels.h"

struct float_format {
    enum weight_format weights;
    enum activation_format rows;
    gemm_panel *gemm;
    void (*pack)(const float *weights, int32_t num_columns, int32_t depth, int32_t panel_stride,
                 void *panels);
    float (*round)(float value); /* to what the format stores */
    void (*store)(void *values, size_t index, float value);
};

/* All that one multiplication needs. */
struct trial {
    const struct float_format *format;
    struct matrix matrix;
    struct activations rows;
    int32_t num_rows;
    float *weights; /* [num_columns][depth], rounded */
    float *inputs;  /* [num_rows][depth], rounded */
    void *unpacked; /* memory that the format may unpack a panel in */
};

/* ---- trials ---- */

typedef float random_number(void);

static float random_whole(void)
{
    return (float)(test_below(17) - 8);
}

static float random_fraction(void)
{
    return test_uniform(-1, 1);
}

static float *rounded_numbers(const struct float_format *format, size_t count,
                              random_number *random)
{
    float *numbers = test_alloc(count * sizeof(float));
    for (size_t i = 0; i < count; i++)
        numbers[i] = format->round(random());
    return numbers;
}

static void set_input(struct trial *trial, int32_t row, int32_t k, float value)
{
    trial->inputs[row * trial->rows.depth + k] = value;
    trial->format->store(trial->rows.values, (size_t)(row * trial->rows.stride + k), value);
}

static size_t value_bytes(enum activation_format format)
{
    return format == ACTIVATIONS_F32 ? sizeof(float) : sizeof(uint16_t);
}

static struct trial new_trial(const struct float_format *format, int32_t num_rows,
                              int32_t num_columns, int32_t depth, random_number *random)
{
    size_t panel_bytes = matrix_panel_bytes(format->weights, depth);
    void *panels = test_alloc((size_t)matrix_num_panels(num_columns) * panel_bytes);
    struct trial trial = {
        .format = format,
        .matrix = {format->weights, num_columns, depth, panels, format->rows},
        .rows = {.format = format->rows, .depth = depth,
                 .stride = activations_stride(format->rows, depth, num_rows)},
        .num_rows = num_rows,
        .weights = rounded_numbers(format, (size_t)num_columns * (size_t)depth, random),
        .inputs = rounded_numbers(format, (size_t)num_rows * (size_t)depth, random),
    };
    trial.unpacked = test_alloc(matrix_panel_bytes(WEIGHTS_BF16, depth));
    trial.rows.values =
        test_alloc((size_t)num_rows * (size_t)trial.rows.stride * value_bytes(format->rows));
    format->pack(trial.weights, num_columns, depth, 1, panels);
    for (int32_t row = 0; row < num_rows; row++)
        for (int32_t k = 0; k < depth; k++)
            set_input(&trial, row, k, trial.inputs[row * depth + k]);
    return trial;
}

static void free_trial(struct trial *trial)
{
    test_free((void *)trial->matrix.panels), test_free(trial->rows.values);
    test_free(trial->weights), test_free(trial->inputs), test_free(trial->unpacked);
}

/* The product, and the sum of the magnitudes of its terms. Columns past the last are zero. */
static double reference(const struct trial *trial, int32_t row, int32_t column, double *magnitude)
{
    int32_t depth = trial->rows.depth;
    double sum = 0;
    *magnitude = 0;
    for (int32_t k = 0; k < depth && column < trial->matrix.num_columns; k++) {
        double term = (double)trial->inputs[row * depth + k] * trial->weights[column * depth + k];
        sum += term;
        *magnitude += fabs(term);
    }
    return sum;
}

/* ---- checks ---- */

static void multiply(const struct trial *trial, int32_t panel, int32_t first_row, int32_t num_rows,
                     float *out, int32_t out_stride)
{
    const struct gemm gemm = {
        .weights = &trial->matrix,
        .panel = panel,
        .is_first = first_row == 0,
        .is_last = first_row + num_rows == trial->num_rows,
        .rows = &trial->rows,
        .first_row = first_row,
        .num_rows = num_rows,
        .out = out,
        .out_stride = out_stride,
        .unpacked = trial->unpacked,
    };
    trial->format->gemm(&gemm);
}

/* Multiplies all rows in one call and compares each result; `unit` is the rounding error of a
 * single operation. */
static void check_panel(const struct trial *trial, int32_t panel, double unit)
{
    enum { STRIDE = PANEL_COLUMNS + 7 };
    float *out = test_alloc((size_t)trial->num_rows * STRIDE * sizeof(float));
    multiply(trial, panel, 0, trial->num_rows, out, STRIDE);
    for (int32_t row = 0; row < trial->num_rows; row++) {
        for (int32_t i = 0; i < PANEL_COLUMNS; i++) {
            double magnitude;
            double expected = reference(trial, row, panel * PANEL_COLUMNS + i, &magnitude);
            CHECK_CLOSE(out[row * STRIDE + i], expected, unit * trial->rows.depth * magnitude);
        }
        for (int32_t i = PANEL_COLUMNS; i < STRIDE; i++)
            CHECK(isnan(out[row * STRIDE + i])); /* as test_alloc left it */
    }
    test_free(out);
}

static void check_product(const struct float_format *format, int32_t num_rows, int32_t num_columns,
                          int32_t depth, random_number *random, double unit)
{
    struct trial trial = new_trial(format, num_rows, num_columns, depth, random);
    for (int32_t panel = 0; panel < matrix_num_panels(num_columns); panel++)
        check_panel(&trial, panel, unit);
    free_trial(&trial);
}

static void whole_numbers_are_multiplied_exactly(const struct float_format *format)
{
    static const int32_t DEPTHS[] = {32, 64, 96, 160, 288};
    static const int32_t MANY_ROWS[] = {64, 71, 96, 128, 150};
    for (int32_t num_rows = 1; num_rows <= 40; num_rows++)
        check_product(format, num_rows, 32, DEPTHS[num_rows % 5], random_whole, 0);
    for (int i = 0; i < 5; i++)
        check_product(format, MANY_ROWS[i], 32, DEPTHS[i], random_whole, 0);
    check_product(format, 3, 1, 64, random_whole, 0);
    check_product(format, 5, 31, 32, random_whole, 0);
    check_product(format, 18, 97, 64, random_whole, 0);
}

static void errors_are_those_of_float32(const struct float_format *format)
{
    check_product(format, 5, 64, 576, random_fraction, 0x1p-24);
    check_product(format, 33, 32, 1536, random_fraction, 0x1p-24);
    check_product(format, 96, 32, 1536, random_fraction, 0x1p-24);
}

static void check_tiles_equal(const struct trial *trial, const float *expected,
                                   int32_t tile_rows)
{
    for (int32_t first = 0; first < trial->num_rows; first += tile_rows) {
        int32_t rest = trial->num_rows - first;
        int32_t num_rows = rest < tile_rows ? rest : tile_rows;
        size_t count = (size_t)num_rows * PANEL_COLUMNS;
        float *out = test_alloc(count * sizeof(float));
        multiply(trial, 0, first, num_rows, out, PANEL_COLUMNS);
        CHECK(memcmp(out, expected + first * PANEL_COLUMNS, count * sizeof(float)) == 0);
        test_free(out);
    }
}

static void a_row_has_the_same_bits_in_any_batch(const struct float_format *format,
                                                 int32_t depth)
{
    enum { NUM_ROWS = 135 };
    static const int32_t TILES[] = {1,  2,  3,  5,  6,  7,  12, 13, 15, 16,
                                    17, 25, 31, 32, 33, 48, 64, 96, 128};
    struct trial trial = new_trial(format, NUM_ROWS, 32, depth, random_fraction);
    float *expected = test_alloc(NUM_ROWS * PANEL_COLUMNS * sizeof(float));
    multiply(&trial, 0, 0, NUM_ROWS, expected, PANEL_COLUMNS);
    for (size_t i = 0; i < sizeof TILES / sizeof *TILES; i++)
        check_tiles_equal(&trial, expected, TILES[i]);
    test_free(expected), free_trial(&trial);
}

/* Not even a row of NaN leaves a trace in the rows beside it. */
static void a_row_of_nan_spoils_no_other(const struct float_format *format)
{
    enum { NUM_ROWS = 35 };
    struct trial trial = new_trial(format, NUM_ROWS, 32, 96, random_fraction);
    float *clean = test_alloc(NUM_ROWS * PANEL_COLUMNS * sizeof(float));
    float *spoiled = test_alloc(NUM_ROWS * PANEL_COLUMNS * sizeof(float));
    multiply(&trial, 0, 0, NUM_ROWS, clean, PANEL_COLUMNS);
    for (int32_t row = 0; row < NUM_ROWS; row += 2)
        for (int32_t k = 0; k < trial.rows.depth; k++)
            set_input(&trial, row, k, NAN);
    multiply(&trial, 0, 0, NUM_ROWS, spoiled, PANEL_COLUMNS);
    for (int32_t i = 0; i < NUM_ROWS * PANEL_COLUMNS; i++) {
        if (i / PANEL_COLUMNS % 2 == 0)
            CHECK(isnan(spoiled[i]));
        else
            CHECK(memcmp(&spoiled[i], &clean[i], sizeof(float)) == 0);
    }
    test_free(clean), test_free(spoiled), free_trial(&trial);
}

static inline void check_float_format(const struct float_format *format)
{
    whole_numbers_are_multiplied_exactly(format);
    errors_are_those_of_float32(format);
    a_row_has_the_same_bits_in_any_batch(format, 416);
    a_row_has_the_same_bits_in_any_batch(format, 1024);
    a_row_of_nan_spoils_no_other(format);
}

#endif
