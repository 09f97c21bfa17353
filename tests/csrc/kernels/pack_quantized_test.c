/* Panels hold what the source held: a quantised weight within half a step, a GGUF code unchanged,
 * each where matrix.h says, and nothing else is touched. */
#include "kernel_test.h"

#include <stdbool.h>

#include "float16.h"
#include "pack.h"

/* ---- the layouts, as matrix.h words them ---- */

struct weight {
    int32_t code;
    double scale;
    double minimum;
};

static double half_at(const uint8_t *values, int32_t column)
{
    _Float16 value;
    memcpy(&value, values + 2 * column, sizeof value);
    return (double)value;
}

static struct weight weight_q8(const uint8_t *group, int32_t k, int32_t c)
{
    int8_t code = (int8_t)group[k / 4 * 128 + c * 4 + k % 4];
    return (struct weight){code, half_at(group + 1024, c), 0.0};
}

static struct weight weight_q4(const uint8_t *group, int32_t k, int32_t c)
{
    uint8_t codes = group[k / 8 * 128 + c * 4 + k % 4];
    return (struct weight){k % 8 < 4 ? codes & 15 : codes >> 4, half_at(group + 512, c),
                           half_at(group + 576, c)};
}

/* The weight of panel columns `column` at depth k, where panels are `stride` panels apart. */
static struct weight weight_in(enum weight_format format, const void *panels, int32_t depth,
                               int32_t stride, int32_t column, int32_t k)
{
    size_t group_bytes = format == WEIGHTS_Q8 ? 1088 : 640;
    size_t group = (size_t)(column / 32 * stride * (depth / 32) + k / 32);
    const uint8_t *bytes = (const uint8_t *)panels + group * group_bytes;
    return format == WEIGHTS_Q8 ? weight_q8(bytes, k % 32, column % 32)
                                : weight_q4(bytes, k % 32, column % 32);
}

static double value_of(struct weight weight)
{
    return weight.scale * weight.code + weight.minimum;
}

/* ---- the sources ---- */

typedef void pack_floats(const float *weights, int32_t num_columns, int32_t depth,
                         int32_t panel_stride, void *panels);
typedef void pack_blocks(const void *blocks, int32_t num_columns, int32_t depth,
                         int32_t panel_stride, void *panels);

static void *new_panels(enum weight_format format, int32_t num_columns, int32_t depth,
                        int32_t stride)
{
    size_t num_panels = (size_t)((matrix_num_panels(num_columns) - 1) * stride + 1);
    return test_alloc(num_panels * matrix_panel_bytes(format, depth));
}

/* Rounded to float16, by the compiler. */
static double rounded(double value)
{
    return (double)(_Float16)(float)value;
}

static void limits_of(const float *group, double *least, double *greatest)
{
    *least = *greatest = group[0];
    for (int i = 1; i < GROUP_SIZE; i++) {
        *least = group[i] < *least ? group[i] : *least;
        *greatest = group[i] > *greatest ? group[i] : *greatest;
    }
}

/* ---- quantised here ---- */

static void check_q8_group(const float *group, const void *panels, int32_t depth, int32_t column,
                           int32_t first)
{
    double least, greatest;
    limits_of(group, &least, &greatest);
    double limit = fmax(fabs(least), fabs(greatest));
    for (int32_t i = 0; i < GROUP_SIZE; i++) {
        struct weight weight = weight_in(WEIGHTS_Q8, panels, depth, 1, column, first + i);
        CHECK(weight.scale == rounded((float)limit / 127.0f));
        CHECK_CLOSE(value_of(weight), group[i], 0.5001 * weight.scale);
        CHECK(weight.code >= -127);
    }
}

static void check_q4_group(const float *group, const void *panels, int32_t depth, int32_t column,
                           int32_t first)
{
    double least, greatest;
    limits_of(group, &least, &greatest);
    double rounding = 0x1p-11 * (fabs(least) + greatest - least);
    for (int32_t i = 0; i < GROUP_SIZE; i++) {
        struct weight weight = weight_in(WEIGHTS_Q4, panels, depth, 1, column, first + i);
        CHECK(weight.scale == rounded(((float)greatest - (float)least) / 15.0f));
        CHECK(weight.minimum == rounded(least));
        CHECK_CLOSE(value_of(weight), group[i], 0.5001 * weight.scale + rounding);
    }
}

static void quantised_weights_are_within_half_a_step(int32_t num_columns, int32_t depth)
{
    size_t count = (size_t)(num_columns * depth);
    float *weights = test_alloc_floats(count, -0.3f, 0.2f);
    void *q8 = new_panels(WEIGHTS_Q8, num_columns, depth, 1);
    void *q4 = new_panels(WEIGHTS_Q4, num_columns, depth, 1);
    pack_q8(weights, num_columns, depth, 1, q8);
    pack_q4(weights, num_columns, depth, 1, q4);
    for (int32_t column = 0; column < num_columns; column++)
        for (int32_t first = 0; first < depth; first += GROUP_SIZE) {
            const float *group = weights + column * depth + first;
            check_q8_group(group, q8, depth, column, first);
            check_q4_group(group, q4, depth, column, first);
        }
    test_free(q4);
    test_free(q8);
    test_free(weights);
}

static void equal_weights_are_kept_as_the_minimum(void)
{
    float *weights = test_alloc_floats(GROUP_SIZE, 0.75f, 0.75f);
    void *panels = new_panels(WEIGHTS_Q4, 1, GROUP_SIZE, 1);
    pack_q4(weights, 1, GROUP_SIZE, 1, panels);
    for (int32_t k = 0; k < GROUP_SIZE; k++)
        CHECK(value_of(weight_in(WEIGHTS_Q4, panels, GROUP_SIZE, 1, 0, k)) == 0.75);
    test_free(panels);
    test_free(weights);
}

/* Weights below what float16 can scale become zero, or the nearest multiple of its least step. */
static void tiny_weights_stay_tiny(float limit)
{
    float *weights = test_alloc_floats(GROUP_SIZE, -limit, limit);
    void *panels = new_panels(WEIGHTS_Q8, 1, GROUP_SIZE, 1);
    pack_q8(weights, 1, GROUP_SIZE, 1, panels);
    for (int32_t k = 0; k < GROUP_SIZE; k++)
        CHECK_CLOSE(value_of(weight_in(WEIGHTS_Q8, panels, GROUP_SIZE, 1, 0, k)), weights[k],
                    0.5 * limit + 127 * 0x1p-25);
    test_free(panels);
    test_free(weights);
}

static void a_weight_that_is_not_finite_makes_its_column_so(pack_floats *pack,
                                                            enum weight_format format, float bad)
{
    const int32_t depth = 2 * GROUP_SIZE, bad_column = 1, bad_k = GROUP_SIZE + 5;
    float *weights = test_alloc_floats((size_t)(3 * depth), -1.0f, 1.0f);
    weights[bad_column * depth + bad_k] = bad;
    void *panels = new_panels(format, 3, depth, 1);
    pack(weights, 3, depth, 1, panels);
    for (int32_t column = 0; column < 3; column++)
        for (int32_t k = 0; k < depth; k++) {
            double value = value_of(weight_in(format, panels, depth, 1, column, k));
            CHECK(isfinite(value) == !(column == bad_column && k >= GROUP_SIZE));
        }
    test_free(panels);
    test_free(weights);
}

/* ---- taken from GGUF blocks ---- */

struct block_format {
    pack_blocks *pack;
    enum weight_format target;
    size_t block_bytes;
    size_t num_halves; /* float16 values before the codes */
};

static const struct block_format Q8_0 = {pack_q8_0, WEIGHTS_Q8, 34, 1};
static const struct block_format Q4_0 = {pack_q4_0, WEIGHTS_Q4, 18, 1};
static const struct block_format Q4_1 = {pack_q4_1, WEIGHTS_Q4, 20, 2};

/* Random codes; scales and minimums from -8 to 8. */
static uint8_t *new_blocks(const struct block_format *format, size_t num_blocks)
{
    uint8_t *blocks = test_alloc(num_blocks * format->block_bytes);
    for (size_t i = 0; i < num_blocks * format->block_bytes; i++)
        blocks[i] = (uint8_t)test_random();
    for (size_t i = 0; i < num_blocks; i++)
        for (size_t j = 0; j < format->num_halves; j++) {
            _Float16 half = (_Float16)test_uniform(-8.0f, 8.0f);
            memcpy(blocks + i * format->block_bytes + 2 * j, &half, sizeof half);
        }
    return blocks;
}

static struct weight weight_of_block(const struct block_format *format, const uint8_t *block,
                                     int32_t k)
{
    double scale = half_at(block, 0);
    const uint8_t *codes = block + 2 * format->num_halves;
    if (format->target == WEIGHTS_Q8)
        return (struct weight){(int8_t)codes[k], scale, 0.0};
    int32_t code = k < 16 ? codes[k] & 15 : codes[k - 16] >> 4;
    return (struct weight){code, scale, format->num_halves == 2 ? half_at(block, 1) : -8 * scale};
}

static void codes_and_scales_are_unchanged(const struct block_format *format, int32_t num_columns,
                                           int32_t depth)
{
    size_t num_blocks = (size_t)(num_columns * depth / GROUP_SIZE);
    uint8_t *blocks = new_blocks(format, num_blocks);
    void *panels = new_panels(format->target, num_columns, depth, 1);
    format->pack(blocks, num_columns, depth, 1, panels);
    for (int32_t column = 0; column < num_columns; column++)
        for (int32_t k = 0; k < depth; k++) {
            size_t index = (size_t)((column * depth + k) / GROUP_SIZE);
            struct weight expected =
                weight_of_block(format, blocks + index * format->block_bytes, k % GROUP_SIZE);
            struct weight found = weight_in(format->target, panels, depth, 1, column, k);
            CHECK(found.code == expected.code);
            CHECK(found.scale == expected.scale);
            CHECK(found.minimum == expected.minimum);
        }
    test_free(panels);
    test_free(blocks);
}

/* ---- all of them ---- */

static void columns_past_the_last_are_zero(const struct block_format *format, int32_t num_columns,
                                           int32_t depth)
{
    uint8_t *blocks = new_blocks(format, (size_t)(num_columns * depth / GROUP_SIZE));
    void *panels = new_panels(format->target, num_columns, depth, 1);
    format->pack(blocks, num_columns, depth, 1, panels);
    for (int32_t column = num_columns; column < 32 * matrix_num_panels(num_columns); column++)
        for (int32_t k = 0; k < depth; k++) {
            struct weight weight = weight_in(format->target, panels, depth, 1, column, k);
            CHECK(weight.code == 0 && weight.scale == 0.0 && weight.minimum == 0.0);
        }
    test_free(panels);
    test_free(blocks);
}

/* Two matrices that alternate are each found as if they were alone. */
static void a_stride_lets_two_matrices_alternate(const struct block_format *format,
                                                 int32_t num_columns, int32_t depth)
{
    size_t panel_bytes = matrix_panel_bytes(format->target, depth);
    size_t num_blocks = (size_t)(num_columns * depth / GROUP_SIZE);
    int32_t num_panels = matrix_num_panels(num_columns);
    uint8_t *both = test_alloc(2 * (size_t)num_panels * panel_bytes);
    uint8_t *alone = test_alloc((size_t)num_panels * panel_bytes);
    uint8_t *blocks[] = {new_blocks(format, num_blocks), new_blocks(format, num_blocks)};
    for (size_t i = 0; i < 2; i++)
        format->pack(blocks[i], num_columns, depth, 2, both + i * panel_bytes);
    for (size_t i = 0; i < 2; i++) {
        format->pack(blocks[i], num_columns, depth, 1, alone);
        for (size_t panel = 0; panel < (size_t)num_panels; panel++)
            CHECK(memcmp(both + (2 * panel + i) * panel_bytes, alone + panel * panel_bytes,
                         panel_bytes) == 0);
        test_free(blocks[i]);
    }
    test_free(alone);
    test_free(both);
}

/* ---- float16.h ---- */

static bool same_half(float16 bits, _Float16 half)
{
    float16 expected;
    memcpy(&expected, &half, sizeof expected);
    return bits == expected || ((bits & 0x7fff) > 0x7c00 && half != half);
}

static void float16_is_the_compilers(void)
{
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        float16 stored = (float16)bits;
        _Float16 half;
        memcpy(&half, &stored, sizeof half);
        float value = float16_to_float(stored);
        CHECK(value == (float)half || (value != value && half != half));
        CHECK(same_half(float16_from_float(value), half));
    }
    for (int i = 0; i < 100000; i++) {
        float value = ldexpf(test_uniform(-2.0f, 2.0f), test_below(48) - 30);
        CHECK(same_half(float16_from_float(value), (_Float16)value));
    }
    const float borders[] = {65519.996f, 65520.0f, 0x1p-25f, 0x1.000002p-25f, 0x1.ffep-15f,
                             0x1.fffp-15f, 0x1.ffefffp-15f, 2049.0f, 2051.0f, INFINITY, NAN};
    for (size_t i = 0; i < sizeof borders / sizeof borders[0]; i++)
        CHECK(same_half(float16_from_float(borders[i]), (_Float16)borders[i]));
}

int main(void)
{
    const struct block_format *const formats[] = {&Q8_0, &Q4_0, &Q4_1};
    const float bad_weights[] = {NAN, -NAN, INFINITY, -INFINITY, 1e30f};
    float16_is_the_compilers();
    quantised_weights_are_within_half_a_step(32, 96);
    quantised_weights_are_within_half_a_step(70, 32);
    equal_weights_are_kept_as_the_minimum();
    tiny_weights_stay_tiny(1e-6f);
    tiny_weights_stay_tiny(1e-12f);
    for (size_t i = 0; i < sizeof bad_weights / sizeof bad_weights[0]; i++) {
        a_weight_that_is_not_finite_makes_its_column_so(pack_q8, WEIGHTS_Q8, bad_weights[i]);
        a_weight_that_is_not_finite_makes_its_column_so(pack_q4, WEIGHTS_Q4, bad_weights[i]);
    }
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        codes_and_scales_are_unchanged(formats[i], 1, 32);
        codes_and_scales_are_unchanged(formats[i], 70, 96);
        columns_past_the_last_are_zero(formats[i], 70, 96);
        columns_past_the_last_are_zero(formats[i], 1, 64);
        a_stride_lets_two_matrices_alternate(formats[i], 70, 64);
    }
    puts("pack_quantized: ok");
    return 0;
}
