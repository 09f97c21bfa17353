/* Quantised weights times rows of bf16: each weight is what matrix.h says, rounded to bf16, and the
 * products are those of bf16 weights. */
#include "kernel_test.h"

#include "bf16.h"
#include "float16.h"
#include "gemm_float_checks.h"

/* ---- products: of weights that the codes hold exactly ---- */

#define STEP 0.125f /* between the weights that a Q8 code with this scale stands for */

static float round_to_step(float value)
{
    return nearbyintf(value / STEP) * STEP;
}

static void store_as_bf16(void *values, size_t index, float value)
{
    ((bf16 *)values)[index] = bf16_from_float(value);
}

static uint8_t *group_at(void *panels, enum weight_format format, int32_t depth, int32_t column,
                         int32_t k)
{
    size_t panel_bytes = matrix_panel_bytes(format, depth);
    return (uint8_t *)panels + (size_t)(column / PANEL_COLUMNS) * panel_bytes +
           (size_t)(k / GROUP_SIZE) * matrix_panel_bytes(format, GROUP_SIZE);
}

static void set_half(uint8_t *halves, int32_t column, float value)
{
    float16 half = float16_from_float(value);
    memcpy(halves + 2 * (column % PANEL_COLUMNS), &half, sizeof half);
}

static void pack_steps(const float *weights, int32_t num_columns, int32_t depth,
                       int32_t panel_stride, void *panels)
{
    CHECK(panel_stride == 1);
    memset(panels, 0,
           (size_t)matrix_num_panels(num_columns) * matrix_panel_bytes(WEIGHTS_Q8, depth));
    for (int32_t column = 0; column < num_columns; column++)
        for (int32_t k = 0; k < depth; k++) {
            uint8_t *group = group_at(panels, WEIGHTS_Q8, depth, column, k);
            int code = (int)(weights[column * depth + k] / STEP);
            group[k % GROUP_SIZE / 4 * 128 + column % PANEL_COLUMNS * 4 + k % 4] = (uint8_t)code;
            set_half(group + 1024, column, STEP);
        }
}

/* To what Q4 codes with a scale of 1 and a minimum of -8 stand for. */
static float round_to_whole(float value)
{
    return fminf(nearbyintf(value), 7);
}

static void pack_wholes(const float *weights, int32_t num_columns, int32_t depth,
                        int32_t panel_stride, void *panels)
{
    CHECK(panel_stride == 1);
    memset(panels, 0,
           (size_t)matrix_num_panels(num_columns) * matrix_panel_bytes(WEIGHTS_Q4, depth));
    for (int32_t column = 0; column < num_columns; column++)
        for (int32_t k = 0; k < depth; k++) {
            uint8_t *group = group_at(panels, WEIGHTS_Q4, depth, column, k);
            int32_t code = (int32_t)weights[column * depth + k] + 8;
            group[k % GROUP_SIZE / 8 * 128 + column % PANEL_COLUMNS * 4 + k % 4] |=
                (uint8_t)(k % 8 < 4 ? code : code << 4);
            set_half(group + 512, column, 1);
            set_half(group + 576, column, -8);
        }
}

/* ---- weights: a row with a single 1 multiplies to the weights of its depth ---- */

enum { DEPTH = 3 * GROUP_SIZE };

struct quantized {
    struct matrix matrix;
    struct activations rows; /* DEPTH of them */
    uint8_t panel[DEPTH / GROUP_SIZE][Q8_GROUP_BYTES] __attribute__((aligned(64)));
    bf16 values[DEPTH][DEPTH] __attribute__((aligned(64)));
    bf16 unpacked[DEPTH * PANEL_COLUMNS] __attribute__((aligned(64)));
    float out[DEPTH][PANEL_COLUMNS] __attribute__((aligned(64)));
};

static float random_scale(void)
{
    float magnitude = ldexpf(test_uniform(1.0f, 2.0f), -test_below(9));
    return test_below(2) == 0 ? magnitude : -magnitude;
}

static void fill_group(enum weight_format format, uint8_t *group)
{
    size_t num_codes = format == WEIGHTS_Q8 ? 1024 : 512;
    for (size_t i = 0; i < num_codes; i++)
        group[i] = (uint8_t)test_random();
    for (int32_t column = 0; column < PANEL_COLUMNS; column++) {
        set_half(group + num_codes, column, random_scale());
        if (format == WEIGHTS_Q4)
            set_half(group + num_codes + 64, column, 8 * random_scale());
    }
}

static struct quantized *new_quantized(enum weight_format format)
{
    struct quantized *this = test_alloc(sizeof *this);
    memset(this->values, 0, sizeof this->values);
    for (int32_t k = 0; k < DEPTH; k++)
        this->values[k][k] = bf16_from_float(1.0f);
    for (int32_t k = 0; k < DEPTH; k += GROUP_SIZE)
        fill_group(format, group_at(this->panel, format, DEPTH, 0, k));
    this->matrix = (struct matrix){format, PANEL_COLUMNS, DEPTH, this->panel, ACTIVATIONS_BF16};
    this->rows = (struct activations){ACTIVATIONS_BF16, DEPTH, DEPTH, this->values, NULL, NULL};
    return this;
}

static double half_at(const uint8_t *halves, int32_t column)
{
    float16 half;
    memcpy(&half, halves + 2 * column, sizeof half);
    return float16_to_float(half);
}

/* As matrix.h words it, without rounding. */
static double weight_at(struct quantized *this, int32_t k, int32_t column)
{
    const uint8_t *group = group_at(this->panel, this->matrix.format, DEPTH, column, k);
    int32_t in_group = k % GROUP_SIZE;
    if (this->matrix.format == WEIGHTS_Q8)
        return half_at(group + 1024, column) *
               (int8_t)group[in_group / 4 * 128 + column * 4 + k % 4];
    uint8_t both = group[in_group / 8 * 128 + column * 4 + k % 4];
    int32_t code = in_group % 8 < 4 ? both & 15 : both >> 4;
    return half_at(group + 512, column) * code + half_at(group + 576, column);
}

/* Rows from first_row on, of a product that begins with row 0 and ends before end_row. */
static void multiply_rows(struct quantized *this, int32_t first_row, int32_t num_rows,
                          int32_t end_row)
{
    const struct gemm gemm = {
        .weights = &this->matrix,
        .is_first = first_row == 0,
        .is_last = first_row + num_rows == end_row,
        .rows = &this->rows,
        .first_row = first_row,
        .num_rows = num_rows,
        .out = this->out[first_row],
        .out_stride = PANEL_COLUMNS,
        .unpacked = this->unpacked,
    };
    KERNEL(kernel_ops).gemm[this->matrix.format][ACTIVATIONS_BF16](&gemm);
}

static void multiply_all(struct quantized *this)
{
    multiply_rows(this, 0, DEPTH, DEPTH);
}

/* Rounded once, or once before that to float32: then a weight half way between two bf16 may go to
 * either, and one of two terms that nearly cancel out keeps the error of the terms. */
static void weights_are_scale_times_code_plus_minimum(enum weight_format format)
{
    struct quantized *this = new_quantized(format);
    multiply_all(this);
    for (int32_t k = 0; k < DEPTH; k++)
        for (int32_t column = 0; column < PANEL_COLUMNS; column++) {
            double weight = weight_at(this, k, column);
            CHECK(bf16_to_float(bf16_from_float(this->out[k][column])) == this->out[k][column]);
            CHECK_CLOSE(this->out[k][column], weight, fabs(weight) * 0x1.01p-8 + 0x1p-16);
        }
    test_free(this);
}

/* What is not a number in one column's scale is not a number in that column only. */
static void nan_stays_in_its_column(enum weight_format format)
{
    enum { BAD_COLUMN = 21 };
    struct quantized *this = new_quantized(format);
    uint8_t *scales = group_at(this->panel, format, DEPTH, 0, GROUP_SIZE) +
                      (format == WEIGHTS_Q8 ? 1024 : 512);
    set_half(scales, BAD_COLUMN, NAN);
    multiply_all(this);
    for (int32_t k = 0; k < DEPTH; k++)
        for (int32_t column = 0; column < PANEL_COLUMNS; column++)
            CHECK(isnan(this->out[k][column]) == (column == BAD_COLUMN));
    test_free(this);
}

/* The last call for a panel need not leave it unpacked. */
static void the_number_of_all_rows_changes_no_bit(enum weight_format format)
{
    struct quantized *this = new_quantized(format);
    float *expected = test_alloc(sizeof this->out);
    multiply_all(this);
    memcpy(expected, this->out, sizeof this->out);
    for (int32_t num_rows = 1; num_rows <= DEPTH; num_rows++) {
        multiply_rows(this, 0, num_rows, num_rows);
        CHECK(memcmp(this->out, expected, sizeof this->out) == 0);
    }
    test_free(expected), test_free(this);
}

static void q4_rows_have_the_same_bits_in_any_batch(void)
{
    struct quantized *this = new_quantized(WEIGHTS_Q4);
    float *together = test_alloc(sizeof this->out);
    for (int32_t i = 0; i < DEPTH * DEPTH; i++)
        this->values[i / DEPTH][i % DEPTH] = bf16_from_float(test_uniform(-1, 1));
    multiply_all(this);
    memcpy(together, this->out, sizeof this->out);
    for (int32_t num_rows = 1; num_rows <= 40; num_rows++) {
        memset(this->unpacked, 0xff, sizeof this->unpacked);
        multiply_rows(this, 0, num_rows, DEPTH);
        multiply_rows(this, num_rows, DEPTH - num_rows, DEPTH);
        CHECK(memcmp(this->out, together, sizeof this->out) == 0);
    }
    test_free(together), test_free(this);
}

int main(void)
{
    static const struct float_format q8_format = {
        .weights = WEIGHTS_Q8,
        .rows = ACTIVATIONS_BF16,
        .gemm = KERNEL(gemm_q8_bf16),
        .pack = pack_steps,
        .round = round_to_step,
        .store = store_as_bf16,
    };
    static const struct float_format q4_format = {
        .weights = WEIGHTS_Q4,
        .rows = ACTIVATIONS_BF16,
        .gemm = KERNEL(gemm_q4_bf16),
        .pack = pack_wholes,
        .round = round_to_whole,
        .store = store_as_bf16,
    };
    kernel_test_begin();
    check_float_format(&q8_format);
    check_float_format(&q4_format);
    for (int format = WEIGHTS_Q8; format < NUM_WEIGHT_FORMATS; format++) {
        weights_are_scale_times_code_plus_minimum((enum weight_format)format);
        nan_stays_in_its_column((enum weight_format)format);
        the_number_of_all_rows_changes_no_bit((enum weight_format)format);
    }
    q4_rows_have_the_same_bits_in_any_batch();
    puts("gemm_unpacked: ok");
    return 0;
}
