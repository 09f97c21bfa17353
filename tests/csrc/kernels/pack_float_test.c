/* Panels of floats hold each weight where matrix.h says, zeros past the last column, and nothing
 * else is touched. */
#include "kernel_test.h"

#include "bf16.h"
#include "pack.h"

/* One of each size of a last panel that may matter. */
static const int32_t NUM_COLUMNS[] = {1, 31, 32, 33, 64, 100};
enum { NUM_CASES = sizeof NUM_COLUMNS / sizeof *NUM_COLUMNS, DEPTH = 96 };

static float weight_or_zero(const float *weights, int32_t num_columns, int32_t column, int32_t k)
{
    return column < num_columns ? weights[column * DEPTH + k] : 0.0f;
}

static size_t bytes_of(enum weight_format format, int32_t num_columns, int32_t panel_stride)
{
    int32_t num_panels = (matrix_num_panels(num_columns) - 1) * panel_stride + 1;
    return (size_t)num_panels * matrix_panel_bytes(format, DEPTH);
}

/* Index of the first value of the panel that holds a column, in values of which a panel has
 * DEPTH times 32. */
static int32_t panel_start(int32_t column, int32_t panel_stride)
{
    return column / PANEL_COLUMNS * panel_stride * DEPTH * PANEL_COLUMNS;
}

static void f32_weights_stand_where_the_layout_says(int32_t num_columns, int32_t panel_stride)
{
    float *weights = test_alloc_floats((size_t)num_columns * DEPTH, -1, 1);
    float *panels = test_alloc(bytes_of(WEIGHTS_F32, num_columns, panel_stride));
    pack_f32(weights, num_columns, DEPTH, panel_stride, panels);
    for (int32_t column = 0; column < matrix_num_panels(num_columns) * PANEL_COLUMNS; column++)
        for (int32_t k = 0; k < DEPTH; k++) {
            int32_t i = panel_start(column, panel_stride) + k * 32 + column % 32;
            CHECK(panels[i] == weight_or_zero(weights, num_columns, column, k));
        }
    test_free(weights), test_free(panels);
}

static void bf16_weights_stand_where_the_layout_says(int32_t num_columns, int32_t panel_stride)
{
    float *weights = test_alloc_floats((size_t)num_columns * DEPTH, -1, 1);
    bf16 *panels = test_alloc(bytes_of(WEIGHTS_BF16, num_columns, panel_stride));
    pack_bf16(weights, num_columns, DEPTH, panel_stride, panels);
    for (int32_t column = 0; column < matrix_num_panels(num_columns) * PANEL_COLUMNS; column++)
        for (int32_t k = 0; k < DEPTH; k++) {
            int32_t i = panel_start(column, panel_stride) + k / 2 * 64 + column % 32 * 2 + k % 2;
            CHECK(panels[i] == bf16_from_float(weight_or_zero(weights, num_columns, column, k)));
        }
    test_free(weights), test_free(panels);
}

/* What a stride of 2 leaves out is the other matrix's. */
static void panels_between_are_left_alone(void)
{
    enum { COLUMNS = 96, PANEL_VALUES = DEPTH * PANEL_COLUMNS };
    float *weights = test_alloc_floats(COLUMNS * DEPTH, -1, 1);
    float *f32 = test_alloc(bytes_of(WEIGHTS_F32, COLUMNS, 2));
    bf16 *rounded = test_alloc(bytes_of(WEIGHTS_BF16, COLUMNS, 2));
    pack_f32(weights, COLUMNS, DEPTH, 2, f32);
    pack_bf16(weights, COLUMNS, DEPTH, 2, rounded);
    for (int panel = 1; panel < 5; panel += 2)
        for (int i = 0; i < PANEL_VALUES; i++) {
            CHECK(isnan(f32[panel * PANEL_VALUES + i]));
            CHECK(rounded[panel * PANEL_VALUES + i] == 0xffff);
        }
    test_free(weights), test_free(f32), test_free(rounded);
}

int main(void)
{
    kernel_test_begin();
    for (int i = 0; i < NUM_CASES; i++)
        for (int32_t panel_stride = 1; panel_stride <= 2; panel_stride++) {
            f32_weights_stand_where_the_layout_says(NUM_COLUMNS[i], panel_stride);
            bf16_weights_stand_where_the_layout_says(NUM_COLUMNS[i], panel_stride);
        }
    panels_between_are_left_alone();
    printf("pack_float: ok\n");
    return 0;
}
