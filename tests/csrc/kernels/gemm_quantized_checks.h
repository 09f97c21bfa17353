/* What gemm_q8_test and gemm_q4_test share: random operands in the panels' layout as matrix.h
 * words it, the product of them in double, and the properties that both products have.
 *
 * Operands end where a page ends that may be read, so that reading past them ends the program:
 * sanitizers do not see what tiles read.
 */
#ifndef GEMM_QUANTIZED_CHECKS_H
#define GEMM_QUANTIZED_CHECKS_H

#include "kernel_test.h"

#include <stdbool.h>
#include <sys/mman.h>

#include "float16.h"
#include "kernels.h"

#define MAX_ROWS 40

struct operands {
    gemm_panel *gemm;
    struct matrix matrix;
    struct activations rows;
    int32_t num_rows;
};

/* ---- memory that ends with a page ---- */

static size_t whole_pages(size_t size)
{
    const size_t page = 65536; /* as large as any architecture's */
    return (size + page - 1) / page * page;
}

static void *alloc_at_end(size_t size)
{
    size_t readable = whole_pages(size), guard = whole_pages(1);
    char *memory = mmap(NULL, readable + guard, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK(mprotect(memory + readable, guard, PROT_NONE) == 0);
    return memory + readable - (size + 63) / 64 * 64;
}

static void free_at_end(void *allocation, size_t size)
{
    size_t readable = whole_pages(size);
    char *end = (char *)allocation + (size + 63) / 64 * 64;
    CHECK(munmap(end - readable, readable + whole_pages(1)) == 0);
}

/* ---- operands ---- */

static size_t num_scales(const struct operands *operands)
{
    return (size_t)(operands->num_rows * operands->rows.depth / GROUP_SIZE);
}

static size_t panels_bytes(const struct matrix *matrix)
{
    return (size_t)matrix_num_panels(matrix->num_columns) *
           matrix_panel_bytes(matrix->format, matrix->depth);
}

/* Scales of all sizes from 2^-9 to 1, with any bits, or all 1. */
static float16 random_scale(bool is_one)
{
    return float16_from_float(is_one ? 1.0f : ldexpf(test_uniform(1.0f, 2.0f), -test_below(9)));
}

static void fill_group(enum weight_format format, bool scales_are_one, uint8_t *group)
{
    size_t group_bytes = matrix_panel_bytes(format, GROUP_SIZE);
    size_t num_halves = format == WEIGHTS_Q8 ? PANEL_COLUMNS : 2 * PANEL_COLUMNS;
    for (size_t i = 0; i < group_bytes - 2 * num_halves; i++)
        group[i] = (uint8_t)(test_below(4) == 0 ? 0x80 : test_random());
    for (size_t i = 0; i < num_halves; i++) {
        float16 scale = random_scale(scales_are_one) ^ (float16)(i % 2 << 15);
        memcpy(group + group_bytes - 2 * num_halves + 2 * i, &scale, sizeof scale);
    }
}

static void fill_rows(struct operands *operands, bool scales_are_one)
{
    struct activations *rows = &operands->rows;
    int8_t *codes = rows->values;
    for (size_t i = 0; i < num_scales(operands); i++, codes += GROUP_SIZE) {
        int32_t sum = 0;
        for (int k = 0; k < GROUP_SIZE; k++) {
            codes[k] = (int8_t)(test_below(4) == 0 ? 127 : test_below(255) - 127);
            sum += codes[k];
        }
        rows->scales[i] = scales_are_one ? 1.0f : test_uniform(0.01f, 2.0f);
        rows->sums[i] = rows->scales[i] * (float)sum;
    }
}

static struct operands new_operands(gemm_panel *gemm, enum weight_format format,
                                    int32_t num_columns, int32_t depth, int32_t num_rows,
                                    bool scales_are_one)
{
    struct operands operands = {.gemm = gemm,
                                .matrix = {format, num_columns, depth, NULL, ACTIVATIONS_Q8},
                                .rows = {.format = ACTIVATIONS_Q8, .depth = depth,
                                         .stride = depth},
                                .num_rows = num_rows};
    size_t group_bytes = matrix_panel_bytes(format, GROUP_SIZE);
    uint8_t *panels = alloc_at_end(panels_bytes(&operands.matrix));
    for (size_t i = 0; i < panels_bytes(&operands.matrix); i += group_bytes)
        fill_group(format, scales_are_one, panels + i);
    operands.matrix.panels = panels;
    operands.rows.values = alloc_at_end((size_t)(num_rows * depth));
    operands.rows.scales = alloc_at_end(num_scales(&operands) * sizeof(float));
    operands.rows.sums = alloc_at_end(num_scales(&operands) * sizeof(float));
    fill_rows(&operands, scales_are_one);
    return operands;
}

static void free_operands(struct operands *operands)
{
    free_at_end((void *)operands->matrix.panels, panels_bytes(&operands->matrix));
    free_at_end(operands->rows.values, (size_t)(operands->num_rows * operands->rows.depth));
    free_at_end(operands->rows.scales, num_scales(operands) * sizeof(float));
    free_at_end(operands->rows.sums, num_scales(operands) * sizeof(float));
}

/* ---- the product, as matrix.h words it ---- */

static double half_at(const uint8_t *halves, int32_t c)
{
    float16 half;
    memcpy(&half, halves + 2 * c, sizeof half);
    return float16_to_float(half);
}

static int32_t code_at(enum weight_format format, const uint8_t *group, int32_t k, int32_t c)
{
    if (format == WEIGHTS_Q8)
        return (int8_t)group[k / 4 * 128 + c * 4 + k % 4];
    uint8_t both = group[k / 8 * 128 + c * 4 + k % 4];
    return k % 8 < 4 ? both & 15 : both >> 4;
}

/* Adds a group's terms to *sum and their magnitudes to *magnitude. */
static void add_terms(const struct operands *operands, const uint8_t *group, int32_t c,
                      size_t row_group, double *sum, double *magnitude)
{
    enum weight_format format = operands->matrix.format;
    const int8_t *codes = (const int8_t *)operands->rows.values + row_group * GROUP_SIZE;
    int32_t dot = 0;
    for (int32_t k = 0; k < GROUP_SIZE; k++)
        dot += code_at(format, group, k, c) * codes[k];
    double term = half_at(group + (format == WEIGHTS_Q8 ? 1024 : 512), c) *
                  operands->rows.scales[row_group] * dot;
    double minimum = 0.0;
    if (format == WEIGHTS_Q4)
        minimum = half_at(group + 576, c) * operands->rows.sums[row_group];
    *sum += term + minimum;
    *magnitude += fabs(term) + fabs(minimum);
}

/* Each term and each addition may be off by a rounding. */
static void check_result(const struct operands *operands, int32_t row, int32_t column,
                         float actual)
{
    const struct matrix *matrix = &operands->matrix;
    int32_t num_groups = matrix->depth / GROUP_SIZE;
    size_t group_bytes = matrix_panel_bytes(matrix->format, GROUP_SIZE);
    const uint8_t *group = matrix_panel(matrix, column / PANEL_COLUMNS);
    double sum = 0.0, magnitude = 0.0;
    for (int32_t i = 0; i < num_groups; i++, group += group_bytes)
        add_terms(operands, group, column % PANEL_COLUMNS, (size_t)(row * num_groups + i), &sum,
                  &magnitude);
    CHECK_CLOSE(actual, sum, magnitude * (num_groups + 4) * 0x1p-24);
}

static void multiply(const struct operands *operands, int32_t panel, int32_t first_row,
                     int32_t num_rows, float *out, int32_t out_stride)
{
    const struct gemm gemm = {
        .weights = &operands->matrix,
        .panel = panel,
        .is_first = first_row == 0,
        .is_last = first_row + num_rows == operands->num_rows,
        .rows = &operands->rows,
        .first_row = first_row,
        .num_rows = num_rows,
        .out = out,
        .out_stride = out_stride,
    };
    operands->gemm(&gemm);
}

/* ---- properties ---- */

/* The rows of `out` are `stride` floats apart; what lies between them must stay as it was. */
static void check_panel(const struct operands *operands, int32_t panel, int32_t first_row,
                        int32_t num_rows, int32_t stride)
{
    size_t count = (size_t)((num_rows - 1) * stride + PANEL_COLUMNS);
    float *out = test_alloc_floats(count, 7.0f, 7.0f);
    multiply(operands, panel, first_row, num_rows, out, stride);
    for (int32_t i = 0; i < (int32_t)count; i++)
        if (i % stride < PANEL_COLUMNS)
            check_result(operands, first_row + i / stride, panel * PANEL_COLUMNS + i % stride,
                         out[i]);
        else
            CHECK(out[i] == 7.0f);
    test_free(out);
}

static void rows_and_panels_are_those_asked_for(gemm_panel *gemm, enum weight_format format,
                                                int32_t depth, int32_t num_rows)
{
    struct operands operands = new_operands(gemm, format, 64, depth, num_rows, false);
    for (int32_t first_row = 0; first_row < num_rows; first_row += 1 + num_rows / 2)
        for (int32_t panel = 0; panel < 2; panel++)
            check_panel(&operands, panel, first_row, num_rows - first_row,
                        PANEL_COLUMNS * (1 + panel));
    free_operands(&operands);
}

/* With scales of 1 no rounding is left: all that remains are the whole numbers. */
static void dots_are_exact(gemm_panel *gemm, enum weight_format format, int32_t num_rows)
{
    const int32_t depth = 3 * GROUP_SIZE;
    struct operands operands = new_operands(gemm, format, PANEL_COLUMNS, depth, num_rows, true);
    float *out = test_alloc((size_t)num_rows * PANEL_COLUMNS * sizeof(float));
    multiply(&operands, 0, 0, num_rows, out, PANEL_COLUMNS);
    for (int32_t i = 0; i < num_rows * PANEL_COLUMNS; i++) {
        double sum = 0.0, magnitude = 0.0;
        for (int32_t g = 0; g < 3; g++)
            add_terms(&operands,
                      (const uint8_t *)operands.matrix.panels +
                          (size_t)g * matrix_panel_bytes(format, GROUP_SIZE),
                      i % PANEL_COLUMNS, (size_t)(i / PANEL_COLUMNS * 3 + g), &sum, &magnitude);
        CHECK(out[i] == (float)sum);
    }
    test_free(out);
    free_operands(&operands);
}

/* All codes of the greatest magnitude, whose products have one sign: nothing saturates. */
static void extreme_codes_do_not_overflow(gemm_panel *gemm, enum weight_format format,
                                          uint8_t weight, int8_t value, int32_t num_rows)
{
    struct operands operands =
        new_operands(gemm, format, PANEL_COLUMNS, GROUP_SIZE, num_rows, true);
    size_t code_bytes = format == WEIGHTS_Q8 ? 1024 : 512;
    memset((void *)operands.matrix.panels, weight, code_bytes);
    memset(operands.rows.values, value, (size_t)(num_rows * GROUP_SIZE));
    for (int32_t row = 0; row < num_rows; row++)
        operands.rows.sums[row] = 32.0f * value;
    check_panel(&operands, 0, 0, num_rows, PANEL_COLUMNS);
    free_operands(&operands);
}

static void a_row_is_the_same_alone_and_in_any_batch(gemm_panel *gemm, enum weight_format format,
                                                     int32_t depth)
{
    struct operands operands = new_operands(gemm, format, PANEL_COLUMNS, depth, MAX_ROWS, false);
    const size_t row_bytes = PANEL_COLUMNS * sizeof(float);
    float *alone = test_alloc(MAX_ROWS * row_bytes), *batch = test_alloc(MAX_ROWS * row_bytes);
    for (int32_t row = 0; row < MAX_ROWS; row++)
        multiply(&operands, 0, row, 1, alone + row * PANEL_COLUMNS, PANEL_COLUMNS);
    for (int32_t num_rows = 1; num_rows <= MAX_ROWS; num_rows++)
        for (int32_t first_row = 0; first_row <= MAX_ROWS - num_rows; first_row += 13) {
            multiply(&operands, 0, first_row, num_rows, batch, PANEL_COLUMNS);
            CHECK(memcmp(batch, alone + first_row * PANEL_COLUMNS,
                         (size_t)num_rows * row_bytes) == 0);
        }
    test_free(batch);
    test_free(alone);
    free_operands(&operands);
}

/* What is not a number in one row or one column is not a number there only. */
static void nan_stays_in_its_row_and_column(gemm_panel *gemm, enum weight_format format)
{
    const int32_t num_rows = 20, bad_row = 17, bad_column = 5;
    struct operands operands =
        new_operands(gemm, format, PANEL_COLUMNS, 2 * GROUP_SIZE, num_rows, false);
    float *out = test_alloc((size_t)num_rows * PANEL_COLUMNS * sizeof(float));
    const float16 nan = 0x7e00;
    operands.rows.scales[2 * bad_row + 1] = NAN;
    memcpy((uint8_t *)operands.matrix.panels + (format == WEIGHTS_Q8 ? 1024 : 512) +
               2 * bad_column, &nan, sizeof nan);
    multiply(&operands, 0, 0, num_rows, out, PANEL_COLUMNS);
    for (int32_t i = 0; i < num_rows * PANEL_COLUMNS; i++)
        CHECK(isnan(out[i]) ==
              (i / PANEL_COLUMNS == bad_row || i % PANEL_COLUMNS == bad_column));
    test_free(out);
    free_operands(&operands);
}

static void check_product(gemm_panel *gemm, enum weight_format format)
{
    const int32_t depths[] = {32, 64, 96, 512, 544, 1056};
    for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        for (int32_t num_rows = 1; num_rows <= MAX_ROWS; num_rows += 1 + num_rows / 4)
            rows_and_panels_are_those_asked_for(gemm, format, depths[i], num_rows);
        a_row_is_the_same_alone_and_in_any_batch(gemm, format, depths[i]);
    }
    for (int32_t num_rows = 1; num_rows <= MAX_ROWS; num_rows++)
        dots_are_exact(gemm, format, num_rows);
    nan_stays_in_its_row_and_column(gemm, format);
}

#endif
