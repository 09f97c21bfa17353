/* Addition of rows and of tiles, to the bit. */
#include "kernel_test.h"

#include "kernels.h"

#define COUNT 1536

static void add_is_the_rounded_sum(void)
{
    float before[COUNT];
    float *x = test_alloc_floats(COUNT, -3, 3);
    float *y = test_alloc_floats(COUNT, -3, 3);
    memcpy(before, x, sizeof before);
    KERNEL(add)(x, y, COUNT);
    for (int32_t i = 0; i < COUNT; i++)
        CHECK(x[i] == before[i] + y[i]);
    test_free(x), test_free(y);
}

/* ---- tiles ---- */

enum {
    NUM_ROWS = 7,
    FIRST_ROW = 2,
    WIDTH = 5 * PANEL_COLUMNS,
    FIRST_PANEL = 1,
    NUM_PANELS = 2,
    STRIDE = NUM_PANELS * PANEL_COLUMNS + 32,
    NUM_SUMS = (FIRST_ROW + NUM_ROWS + 1) * WIDTH,
};

/* What the tile has to add to sums[row][column]; NULL: nothing. */
static const float *addend(const float *values, int32_t row, int32_t column)
{
    int32_t tile_row = row - FIRST_ROW, tile_column = column - FIRST_PANEL * PANEL_COLUMNS;
    if (tile_row < 0 || tile_row >= NUM_ROWS || tile_column < 0 ||
        tile_column >= NUM_PANELS * PANEL_COLUMNS)
        return NULL;
    return values + tile_row * STRIDE + tile_column;
}

static void a_tile_is_added_to_its_rows_and_columns_only(const float *biases)
{
    float before[NUM_SUMS], added[NUM_ROWS * STRIDE];
    float *sums = test_alloc_floats(NUM_SUMS, -3, 3);
    struct product_tile tile = {.first_row = FIRST_ROW, .num_rows = NUM_ROWS,
                                .first_panel = FIRST_PANEL, .num_panels = NUM_PANELS,
                                .stride = STRIDE,
                                .values = test_alloc_floats(NUM_ROWS * STRIDE, -3, 3)};
    memcpy(before, sums, sizeof before);
    memcpy(added, tile.values, sizeof added);
    KERNEL(add_tile)(&tile, biases, sums, WIDTH);
    for (int32_t i = 0; i < NUM_SUMS; i++) {
        const float *value = addend(added, i / WIDTH, i % WIDTH);
        float bias = biases == NULL ? 0 : biases[i % WIDTH];
        CHECK(sums[i] == (value == NULL ? before[i] : before[i] + (*value + bias)));
    }
    test_free(sums), test_free(tile.values);
}

static void a_tile_may_have_biases(void)
{
    float *biases = test_alloc_floats(WIDTH, -3, 3);
    a_tile_is_added_to_its_rows_and_columns_only(NULL);
    a_tile_is_added_to_its_rows_and_columns_only(biases);
    test_free(biases);
}

int main(void)
{
    kernel_test_begin();
    add_is_the_rounded_sum();
    a_tile_may_have_biases();
    puts("elementwise: ok");
    return 0;
}
