/* Rounded activations are the same on every level: those of a model in plain C, bit by bit; and
 * nothing beside the columns that were asked for is touched. */
#include "kernel_test.h"

#include "bf16.h"
#include "kernels.h"

#define NUM_ROWS 3
#define DEPTH 192
#define NUM_GROUPS (DEPTH / GROUP_SIZE)

/* ---- two sets of rows: one that the kernel writes, one that the model writes ---- */

static size_t value_bytes(enum activation_format format)
{
    return format == ACTIVATIONS_F32 ? 4 : format == ACTIVATIONS_BF16 ? 2 : 1;
}

/* Floats have a gap after a row, as the rows of tiles do. */
static int32_t stride_of(enum activation_format format)
{
    return format == ACTIVATIONS_Q8 ? DEPTH : DEPTH + GROUP_SIZE;
}

static size_t rows_bytes(enum activation_format format)
{
    return NUM_ROWS * (size_t)stride_of(format) * value_bytes(format);
}

static struct activations new_rows(enum activation_format format)
{
    size_t num_scales = NUM_ROWS * NUM_GROUPS;
    return (struct activations){.format = format, .depth = DEPTH, .stride = stride_of(format),
                                .values = test_alloc(rows_bytes(format)),
                                .scales = test_alloc(num_scales * sizeof(float)),
                                .sums = test_alloc(num_scales * sizeof(float))};
}

static void free_rows(struct activations *rows)
{
    test_free(rows->values);
    test_free(rows->scales);
    test_free(rows->sums);
}

static void check_same_rows(const struct activations *actual, const struct activations *expected)
{
    size_t scale_bytes = NUM_ROWS * NUM_GROUPS * sizeof(float);
    CHECK(memcmp(actual->values, expected->values, rows_bytes(actual->format)) == 0);
    CHECK(memcmp(actual->scales, expected->scales, scale_bytes) == 0);
    CHECK(memcmp(actual->sums, expected->sums, scale_bytes) == 0);
}

/* ---- the model ---- */

static float greatest_magnitude(const float *group)
{
    float greatest = 0.0f;
    for (int i = 0; i < GROUP_SIZE; i++)
        greatest = fabsf(group[i]) > greatest ? fabsf(group[i]) : greatest;
    return greatest;
}

static void model_q8_group(const float *group, int8_t *codes, float *scale, float *sum)
{
    float greatest = greatest_magnitude(group);
    int32_t sum_of_codes = 0;
    *scale = greatest / 127.0f;
    for (int i = 0; i < GROUP_SIZE; i++) {
        codes[i] = greatest == 0.0f ? 0 : (int8_t)nearbyintf(group[i] * (127.0f / greatest));
        sum_of_codes += codes[i];
    }
    *sum = *scale * (float)sum_of_codes;
}

static void model(const struct activations *rows, int32_t row, int32_t first_column,
                  const float *values, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        size_t index = (size_t)(row * rows->stride + first_column + i), group = index / GROUP_SIZE;
        if (rows->format == ACTIVATIONS_F32)
            ((float *)rows->values)[index] = values[i];
        if (rows->format == ACTIVATIONS_BF16)
            ((bf16 *)rows->values)[index] = bf16_from_float(values[i]);
        if (rows->format == ACTIVATIONS_Q8 && i % GROUP_SIZE == 0)
            model_q8_group(values + i, (int8_t *)rows->values + index, rows->scales + group,
                           rows->sums + group);
    }
}

static store_activations *store_of(enum activation_format format)
{
    return format == ACTIVATIONS_F32    ? KERNEL(store_f32)
           : format == ACTIVATIONS_BF16 ? KERNEL(store_bf16)
                                        : KERNEL(store_q8);
}

static void check_like_model(enum activation_format format, int32_t row, int32_t first_column,
                             const float *values, int32_t count)
{
    struct activations actual = new_rows(format), expected = new_rows(format);
    store_of(format)(&actual, row, first_column, values, count);
    model(&expected, row, first_column, values, count);
    check_same_rows(&actual, &expected);
    free_rows(&expected);
    free_rows(&actual);
}

/* ---- properties ---- */

static void any_columns_of_any_row_are_as_in_the_model(enum activation_format format, float limit)
{
    for (int32_t row = 0; row < NUM_ROWS; row++)
        for (int32_t first = 0; first < DEPTH; first += GROUP_SIZE)
            for (int32_t count = GROUP_SIZE; count <= DEPTH - first; count += GROUP_SIZE) {
                float *values = test_alloc_floats((size_t)count, -limit, limit);
                check_like_model(format, row, first, values, count);
                test_free(values);
            }
}

static void one_large_value_leaves_the_others_exact_to_half_a_step(void)
{
    float *values = test_alloc_floats(GROUP_SIZE, -1.0f, 1.0f);
    values[7] = -1000.0f;
    struct activations rows = new_rows(ACTIVATIONS_Q8);
    KERNEL(store_q8)(&rows, 1, GROUP_SIZE, values, GROUP_SIZE);
    const int8_t *codes = (const int8_t *)rows.values + DEPTH + GROUP_SIZE;
    float scale = rows.scales[NUM_GROUPS + 1];
    CHECK(codes[7] == -127);
    for (int i = 0; i < GROUP_SIZE; i++)
        CHECK_CLOSE((double)scale * codes[i], values[i], 0.50001 * scale);
    free_rows(&rows);
    test_free(values);
}

static void ties_go_to_the_even_code(void)
{
    float values[GROUP_SIZE] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, -126.5f};
    const int8_t expected[GROUP_SIZE] = {127, 0, 2, 2, 0, -2, -2, -126};
    struct activations rows = new_rows(ACTIVATIONS_Q8);
    KERNEL(store_q8)(&rows, 0, 0, values, GROUP_SIZE);
    CHECK(memcmp(rows.values, expected, sizeof expected) == 0);
    CHECK(rows.scales[0] == 1.0f && rows.sums[0] == 1.0f);
    free_rows(&rows);
}

static void a_group_of_nothing_has_no_scale(float value)
{
    float *values = test_alloc_floats(GROUP_SIZE, value, value);
    struct activations rows = new_rows(ACTIVATIONS_Q8);
    KERNEL(store_q8)(&rows, 0, 0, values, GROUP_SIZE);
    for (int i = 0; i < GROUP_SIZE; i++)
        CHECK(((const int8_t *)rows.values)[i] == 0);
    CHECK(rows.scales[0] == 0.0f && rows.sums[0] == 0.0f);
    free_rows(&rows);
    test_free(values);
}

/* A NaN or an infinity is not lost: what is multiplied with its group becomes NaN. */
static void a_value_that_is_not_finite_makes_its_group_nan(float bad)
{
    for (int place = 0; place < GROUP_SIZE; place++) {
        float *values = test_alloc_floats(2 * GROUP_SIZE, -1.0f, 1.0f);
        values[place] = bad;
        struct activations rows = new_rows(ACTIVATIONS_Q8);
        KERNEL(store_q8)(&rows, 0, 0, values, 2 * GROUP_SIZE);
        CHECK(isnan(rows.scales[0]) && isnan(rows.sums[0]));
        CHECK(isfinite(rows.scales[1]) && isfinite(rows.sums[1]));
        free_rows(&rows);
        test_free(values);
    }
}

static void bf16_rounds_every_kind_of_number_like_bf16_h(void)
{
    const uint32_t kinds[GROUP_SIZE] = {
        0x00000000, 0x80000000, 0x00000001, 0x807fffff, 0x00800000, 0x3f808000, 0x3f818000,
        0x3f808001, 0x3f807fff, 0xbf808000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000,
        0x7f800001, 0xffc12345, 0x7fffffff, 0x7f7f7fff, 0x7f7f8000};
    float values[GROUP_SIZE];
    memcpy(values, kinds, sizeof values);
    check_like_model(ACTIVATIONS_BF16, 0, 0, values, GROUP_SIZE);
}

int main(void)
{
    const enum activation_format formats[] = {ACTIVATIONS_F32, ACTIVATIONS_BF16, ACTIVATIONS_Q8};
    const float limits[] = {1.0f, 1e30f, 1e-30f};
    const float not_finite[] = {NAN, -NAN, INFINITY, -INFINITY};
    kernel_test_begin();
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < 3; j++)
            any_columns_of_any_row_are_as_in_the_model(formats[i], limits[j]);
    one_large_value_leaves_the_others_exact_to_half_a_step();
    ties_go_to_the_even_code();
    a_group_of_nothing_has_no_scale(0.0f);
    a_group_of_nothing_has_no_scale(-0.0f);
    a_group_of_nothing_has_no_scale(1e-40f);
    for (size_t i = 0; i < sizeof not_finite / sizeof not_finite[0]; i++)
        a_value_that_is_not_finite_makes_its_group_nan(not_finite[i]);
    bf16_rounds_every_kind_of_number_like_bf16_h();
    puts("activations: ok");
    return 0;
}
