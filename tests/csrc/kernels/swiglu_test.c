/* SwiGLU of tiles against double, out to the largest floats, in each format of activations. */
#include "kernel_test.h"

#include <float.h>

#include "bf16.h"
#include "kernels.h"

enum {
    NUM_ROWS = 7,
    FIRST_ROW = 2,
    DEPTH = 3 * PANEL_COLUMNS,
    FIRST_COLUMN = PANEL_COLUMNS,
    STRIDE = 2 * PANEL_COLUMNS,
};

#define TOLERANCE (8 * 0x1p-24)

/* Of a result before it is rounded to bf16, and of the rounding. */
#define ESTIMATE_TOLERANCE 0x1p-13
#define ROUNDING_TOLERANCE 0x1p-8

/* Where e^gate is below the normal floats, silu may be 0. */
#define VANISHING_SILU 1e-35

/* ---- a tile, its biases and the rows that it goes to ---- */

struct fixture {
    struct product_tile tile;
    float *gate_bias;
    float *up_bias;
    struct activations rows;
};

/* Floats have a gap after a row, as the rows of tiles do. */
static struct activations new_rows(enum activation_format format)
{
    const size_t value_bytes[] = {
        [ACTIVATIONS_F32] = 4, [ACTIVATIONS_BF16] = 2, [ACTIVATIONS_Q8] = 1};
    const size_t num_rows = FIRST_ROW + NUM_ROWS, num_groups = num_rows * DEPTH / GROUP_SIZE;
    const int32_t stride = format == ACTIVATIONS_Q8 ? DEPTH : DEPTH + GROUP_SIZE;
    const size_t row_bytes = (size_t)stride * value_bytes[format];
    return (struct activations){.format = format, .depth = DEPTH, .stride = stride,
                                .values = test_alloc(num_rows * row_bytes),
                                .scales = test_alloc(num_groups * sizeof(float)),
                                .sums = test_alloc(num_groups * sizeof(float))};
}

static struct fixture new_fixture(enum activation_format format, float low, float high)
{
    struct fixture this = {
        .tile = {.first_row = FIRST_ROW, .num_rows = NUM_ROWS, .first_panel = 2, .num_panels = 2,
                 .stride = STRIDE, .values = test_alloc_floats(NUM_ROWS * STRIDE, -3, 3)},
        .gate_bias = test_alloc_floats(PANEL_COLUMNS, -2, 2),
        .up_bias = test_alloc_floats(PANEL_COLUMNS, -2, 2),
        .rows = new_rows(format),
    };
    for (int32_t row = 0; row < NUM_ROWS; row++)
        test_fill(this.tile.values + row * STRIDE, PANEL_COLUMNS, low, high);
    return this;
}

static void free_fixture(struct fixture *this)
{
    test_free(this->tile.values);
    test_free(this->gate_bias), test_free(this->up_bias);
    test_free(this->rows.values), test_free(this->rows.scales), test_free(this->rows.sums);
}

static void run(const struct fixture *this, const float *gate_bias, const float *up_bias)
{
    swiglu_tile *const kernels[] = {[ACTIVATIONS_F32] = KERNEL(swiglu_f32),
                                    [ACTIVATIONS_BF16] = KERNEL(swiglu_bf16),
                                    [ACTIVATIONS_Q8] = KERNEL(swiglu_q8)};
    kernels[this->rows.format](&this->tile, gate_bias, up_bias, &this->rows, FIRST_COLUMN);
}

/* ---- results ---- */

static size_t index_of(const struct activations *rows, int32_t row, int32_t column)
{
    return (size_t)((FIRST_ROW + row) * rows->stride + FIRST_COLUMN + column);
}

static double result(const struct fixture *this, int32_t row, int32_t column)
{
    size_t index = index_of(&this->rows, row, column);
    switch (this->rows.format) {
    case ACTIVATIONS_F32:
        return ((float *)this->rows.values)[index];
    case ACTIVATIONS_BF16:
        return bf16_to_float(((bf16 *)this->rows.values)[index]);
    default:
        return (double)this->rows.scales[index / GROUP_SIZE] *
               ((int8_t *)this->rows.values)[index];
    }
}

static double expected_result(const struct fixture *this, const float *gate_bias,
                              const float *up_bias, int32_t row, int32_t column)
{
    const float *values = this->tile.values + row * STRIDE + column;
    float gate = values[0] + (gate_bias == NULL ? 0 : gate_bias[column]);
    float up = values[PANEL_COLUMNS] + (up_bias == NULL ? 0 : up_bias[column]);
    return gate / (1 + exp(-(double)gate)) * up;
}

static double tolerance(const struct fixture *this, double expected, int32_t row)
{
    switch (this->rows.format) {
    case ACTIVATIONS_F32:
        return TOLERANCE * fabs(expected);
    case ACTIVATIONS_BF16:
        return (ESTIMATE_TOLERANCE + ROUNDING_TOLERANCE) * fabs(expected);
    default: /* half a step of the group, which is what the row has here */
        return 0.501 * this->rows.scales[index_of(&this->rows, row, 0) / GROUP_SIZE];
    }
}

static void check_results(const struct fixture *this, const float *gate_bias, const float *up_bias)
{
    for (int32_t row = 0; row < NUM_ROWS; row++)
        for (int32_t column = 0; column < PANEL_COLUMNS; column++) {
            double expected = expected_result(this, gate_bias, up_bias, row, column);
            CHECK_CLOSE(result(this, row, column), expected,
                        tolerance(this, expected, row) + 5 * VANISHING_SILU);
        }
}

/* What nobody wrote is 0xff. */
static void check_the_rest_is_untouched(const struct fixture *this)
{
    for (int32_t row = 0; row < FIRST_ROW + NUM_ROWS; row++)
        for (int32_t column = 0; column < this->rows.stride; column++) {
            int32_t in_tile = row >= FIRST_ROW && column >= FIRST_COLUMN &&
                              column < FIRST_COLUMN + PANEL_COLUMNS;
            size_t index = (size_t)(row * this->rows.stride + column);
            if (this->rows.format == ACTIVATIONS_BF16)
                CHECK(in_tile || ((bf16 *)this->rows.values)[index] == 0xffff);
            else if (this->rows.format == ACTIVATIONS_F32)
                CHECK(in_tile || isnan(((float *)this->rows.values)[index]));
            else
                CHECK(in_tile || ((int8_t *)this->rows.values)[index] == -1);
        }
}

/* ---- properties ---- */

static void gates_between(enum activation_format format, float low, float high)
{
    struct fixture this = new_fixture(format, low, high);
    run(&this, NULL, NULL);
    check_results(&this, NULL, NULL);
    check_the_rest_is_untouched(&this);
    free_fixture(&this);
}

static void a_tile_equals_the_reference_at_every_magnitude(enum activation_format format)
{
    gates_between(format, -1e-30f, 1e-30f);
    gates_between(format, -1e-3f, 1e-3f);
    gates_between(format, -8, 8);
    gates_between(format, -100, 100);
    gates_between(format, -1e30f, 1e30f);
}

static void each_bias_is_added_to_its_own_columns(enum activation_format format)
{
    struct fixture this = new_fixture(format, -3, 3);
    run(&this, this.gate_bias, NULL);
    check_results(&this, this.gate_bias, NULL);
    run(&this, NULL, this.up_bias);
    check_results(&this, NULL, this.up_bias);
    run(&this, this.gate_bias, this.up_bias);
    check_results(&this, this.gate_bias, this.up_bias);
    free_fixture(&this);
}

static void extreme_gates_are_finite_and_right(enum activation_format format)
{
    static const float extremes[] = {0,     -0.0f,   FLT_MIN, -FLT_MIN, FLT_TRUE_MIN, -87.3f,
                                     88.8f, -88.8f,  -104,    104,      FLT_MAX,      -FLT_MAX};
    enum { NUM_EXTREMES = sizeof extremes / sizeof *extremes };
    struct fixture this = new_fixture(format, 0, 0);
    for (int32_t row = 0; row < NUM_ROWS; row++)
        for (int32_t column = 0; column < PANEL_COLUMNS; column++) {
            this.tile.values[row * STRIDE + column] = extremes[(row + column) % NUM_EXTREMES];
            this.tile.values[row * STRIDE + PANEL_COLUMNS + column] = test_uniform(0.5f, 0.9f);
        }
    run(&this, NULL, NULL);
    check_results(&this, NULL, NULL);
    free_fixture(&this);
}

static void a_nan_is_not_lost(enum activation_format format)
{
    for (int32_t place = 0; place < 2 * PANEL_COLUMNS; place++) {
        struct fixture this = new_fixture(format, -3, 3);
        this.tile.values[STRIDE + place] = NAN;
        run(&this, NULL, NULL);
        CHECK(isnan(result(&this, 1, place % PANEL_COLUMNS)));
        CHECK(isfinite(result(&this, 0, place % PANEL_COLUMNS)));
        free_fixture(&this);
    }
}

/* A row has the same bits wherever it stands in whichever tile. */
static void a_row_does_not_depend_on_the_others(enum activation_format format)
{
    struct fixture all = new_fixture(format, -8, 8);
    run(&all, NULL, NULL);
    for (int32_t row = 0; row < NUM_ROWS; row++) {
        struct fixture one = new_fixture(format, -8, 8);
        one.tile.num_rows = 1;
        memcpy(one.tile.values, all.tile.values + row * STRIDE, STRIDE * sizeof(float));
        run(&one, NULL, NULL);
        for (int32_t column = 0; column < PANEL_COLUMNS; column++)
            CHECK(result(&one, 0, column) == result(&all, row, column));
        free_fixture(&one);
    }
    free_fixture(&all);
}

int main(void)
{
    kernel_test_begin();
    for (int i = 0; i < NUM_ACTIVATION_FORMATS; i++) {
        enum activation_format format = (enum activation_format)i;
        a_tile_equals_the_reference_at_every_magnitude(format);
        each_bias_is_added_to_its_own_columns(format);
        extreme_gates_are_finite_and_right(format);
        a_nan_is_not_lost(format);
        a_row_does_not_depend_on_the_others(format);
    }
    puts("swiglu: ok");
    return 0;
}
