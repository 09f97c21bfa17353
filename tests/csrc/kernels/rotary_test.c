/* Rotation of a head against complex multiplication in double. */
#include "kernel_test.h"

#include "kernels.h"

#define MAX_HEAD_DIM 256
#define NUM_ROWS 5
#define STRIDE (MAX_HEAD_DIM + 32)
#define OUT_STRIDE (MAX_HEAD_DIM + 96)
#define TOLERANCE (4 * 0x1p-24) /* of a head whose values are at most 2 */

static void fill_angles(int32_t count, float *cosines, float *sines)
{
    for (int32_t i = 0; i < count; i++) {
        double angle = test_uniform(-4, 4);
        cosines[i] = (float)cos(angle);
        sines[i] = (float)sin(angle);
    }
}

/* A head of NUM_ROWS tokens, the first columns of rows of STRIDE floats. */
static struct product_tile new_tile(int32_t head_dim)
{
    return (struct product_tile){.num_rows = NUM_ROWS, .num_panels = head_dim / PANEL_COLUMNS,
                                 .stride = STRIDE,
                                 .values = test_alloc_floats(NUM_ROWS * STRIDE, -2, 2)};
}

static void check_row(const float *before, const float *after, int32_t half, const float *cosines,
                      const float *sines)
{
    for (int32_t i = 0; i < half; i++) {
        double x = before[i], y = before[i + half];
        CHECK_CLOSE(after[i], x * cosines[i] - y * sines[i], TOLERANCE);
        CHECK_CLOSE(after[i + half], y * cosines[i] + x * sines[i], TOLERANCE);
    }
}

/* What nobody wrote is NaN. */
static void check_untouched(const float *values, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        CHECK(isnan(values[i]));
}

static void check_head(int32_t head_dim)
{
    int32_t half = head_dim / 2;
    struct product_tile tile = new_tile(head_dim);
    float *cosines = test_alloc((size_t)(NUM_ROWS * half) * sizeof(float));
    float *sines = test_alloc((size_t)(NUM_ROWS * half) * sizeof(float));
    float *out = test_alloc(NUM_ROWS * OUT_STRIDE * sizeof(float));
    fill_angles(NUM_ROWS * half, cosines, sines);
    KERNEL(rotate)(&tile, cosines, sines, out, OUT_STRIDE);
    for (int32_t row = 0; row < NUM_ROWS; row++) {
        check_row(tile.values + row * STRIDE, out + row * OUT_STRIDE, half, cosines + row * half,
                  sines + row * half);
        check_untouched(out + row * OUT_STRIDE + head_dim, OUT_STRIDE - head_dim);
    }
    test_free(tile.values), test_free(cosines), test_free(sines), test_free(out);
}

static void each_pair_is_turned_by_its_own_angle(void)
{
    for (int32_t head_dim = 32; head_dim <= MAX_HEAD_DIM; head_dim += 32)
        check_head(head_dim);
}

static void in_place_gives_the_same_bits(void)
{
    enum { HEAD_DIM = 64, NUM_ANGLES = NUM_ROWS * HEAD_DIM / 2 };
    struct product_tile tile = new_tile(HEAD_DIM);
    float *cosines = test_alloc(NUM_ANGLES * sizeof(float));
    float *sines = test_alloc(NUM_ANGLES * sizeof(float));
    float *out = test_alloc(NUM_ROWS * STRIDE * sizeof(float));
    fill_angles(NUM_ANGLES, cosines, sines);
    KERNEL(rotate)(&tile, cosines, sines, out, STRIDE);
    KERNEL(rotate)(&tile, cosines, sines, tile.values, STRIDE);
    for (int32_t row = 0; row < NUM_ROWS; row++)
        CHECK(memcmp(out + row * STRIDE, tile.values + row * STRIDE,
                     HEAD_DIM * sizeof(float)) == 0);
    test_free(tile.values), test_free(cosines), test_free(sines), test_free(out);
}

static void no_turn_changes_no_bit(void)
{
    enum { HEAD_DIM = 64, NUM_ANGLES = NUM_ROWS * HEAD_DIM / 2 };
    float before[NUM_ROWS * STRIDE];
    struct product_tile tile = new_tile(HEAD_DIM);
    float *cosines = test_alloc_floats(NUM_ANGLES, 1, 1);
    float *sines = test_alloc_floats(NUM_ANGLES, 0, 0);
    memcpy(before, tile.values, sizeof before);
    KERNEL(rotate)(&tile, cosines, sines, tile.values, STRIDE);
    CHECK(memcmp(tile.values, before, sizeof before) == 0);
    test_free(tile.values), test_free(cosines), test_free(sines);
}

int main(void)
{
    kernel_test_begin();
    each_pair_is_turned_by_its_own_angle();
    in_place_gives_the_same_bits();
    no_turn_changes_no_bit();
    puts("rotary: ok");
    return 0;
}
