/* pack_quantized: panels of 8-bit and 4-bit weights, quantised here or taken from a GGUF file.
 *
 * Whatever the source is, 32 weights of one column become a `struct group`; one function a panel
 * format then puts a group where it belongs. A panel is written in order and read as 32 streams,
 * one a column.
 *
 * A group with a NaN, an infinity or a range that float16 cannot scale gets a scale or minimum
 * that is not finite: the products with it are NaN, and whoever looks at them learns of it.
 */
#include <math.h>
#include <string.h>

#include "float16.h"
#include "pack.h"
#include "vec.h"

#define GREATEST_Q8_CODE 127
#define GREATEST_Q4_CODE 15
#define Q4_0_ZERO_CODE 8 /* the code that stands for 0 */

struct group {
    float16 scale;
    float16 minimum; /* Q4 only */
    int8_t codes[GROUP_SIZE];
};

/* How 32 weights stand in the source, and how they become a group. */
struct source_format {
    size_t group_bytes;
    void (*read)(const void *source, struct group *group);
};

/* ---- quantising ---- */

/* 0, or NaN if one of the weights is not finite. */
static float zero_if_finite(const float *weights)
{
    float sum = 0.0f;
    for (int i = 0; i < GROUP_SIZE; i++)
        sum += weights[i] - weights[i];
    return sum;
}

/* codes[i] = the whole number nearest to (weights[i] - minimum) / scale, ties to even, within
 * limits. */
static void choose_codes(const float *weights, float minimum, float scale, float least,
                         float greatest, int8_t *codes)
{
    const vec to_nearest = vec_set1(12582912.0f); /* 1.5 * 2^23: adding it drops the fraction */
    vec divisor = vec_set1(scale > 0.0f ? scale : 1.0f);
    for (int i = 0; i < GROUP_SIZE; i += VEC_LANES) {
        vec quotient = (vec_load(weights + i) - minimum) / divisor;
        quotient = vec_max(quotient, vec_set1(least)); /* in place of NaN, too */
        quotient = vec_select((vec_i32)(quotient < greatest), quotient, vec_set1(greatest));
        vec_i32 nearest = __builtin_convertvector(quotient + to_nearest - to_nearest, vec_i32);
        for (int lane = 0; lane < VEC_LANES; lane++)
            codes[i + lane] = (int8_t)nearest[lane];
    }
}

static void quantize_q8(const void *source, struct group *group)
{
    const float *weights = source;
    float limit = 0.0f;
    for (int i = 0; i < GROUP_SIZE; i++)
        limit = fabsf(weights[i]) > limit ? fabsf(weights[i]) : limit;
    limit += zero_if_finite(weights);
    group->scale = float16_from_float(limit / GREATEST_Q8_CODE);
    choose_codes(weights, 0.0f, float16_to_float(group->scale), -GREATEST_Q8_CODE,
                 GREATEST_Q8_CODE, group->codes);
}

static void quantize_q4(const void *source, struct group *group)
{
    const float *weights = source;
    float least = weights[0], greatest = weights[0];
    for (int i = 1; i < GROUP_SIZE; i++) {
        least = weights[i] < least ? weights[i] : least;
        greatest = weights[i] > greatest ? weights[i] : greatest;
    }
    least += zero_if_finite(weights);
    group->scale = float16_from_float((greatest - least) / GREATEST_Q4_CODE);
    group->minimum = float16_from_float(least);
    choose_codes(weights, float16_to_float(group->minimum), float16_to_float(group->scale), 0,
                 GREATEST_Q4_CODE, group->codes);
}

/* ---- GGUF blocks ---- */

static void read_halves(const uint8_t *bytes, int8_t *codes)
{
    for (int i = 0; i < GROUP_SIZE / 2; i++) {
        codes[i] = (int8_t)(bytes[i] & 15);
        codes[i + GROUP_SIZE / 2] = (int8_t)(bytes[i] >> 4);
    }
}

static void read_q8_0(const void *source, struct group *group)
{
    memcpy(&group->scale, source, sizeof group->scale);
    memcpy(group->codes, (const uint8_t *)source + sizeof group->scale, sizeof group->codes);
}

static void read_q4_0(const void *source, struct group *group)
{
    memcpy(&group->scale, source, sizeof group->scale);
    group->minimum = float16_from_float(-Q4_0_ZERO_CODE * float16_to_float(group->scale));
    read_halves((const uint8_t *)source + sizeof group->scale, group->codes);
}

static void read_q4_1(const void *source, struct group *group)
{
    memcpy(&group->scale, source, sizeof group->scale);
    memcpy(&group->minimum, (const uint8_t *)source + sizeof group->scale, sizeof group->minimum);
    read_halves((const uint8_t *)source + sizeof group->scale + sizeof group->minimum,
                group->codes);
}

static const struct source_format floats_to_q8 = {GROUP_SIZE * sizeof(float), quantize_q8};
static const struct source_format floats_to_q4 = {GROUP_SIZE * sizeof(float), quantize_q4};
static const struct source_format blocks_q8_0 = {2 + GROUP_SIZE, read_q8_0};
static const struct source_format blocks_q4_0 = {2 + GROUP_SIZE / 2, read_q4_0};
static const struct source_format blocks_q4_1 = {4 + GROUP_SIZE / 2, read_q4_1};

/* ---- panels ---- */

static void write_float16(uint8_t *values, int32_t column, float16 value)
{
    memcpy(values + sizeof value * (size_t)column, &value, sizeof value);
}

static void write_q8(uint8_t *panel_group, int32_t column, const struct group *group)
{
    for (int k = 0; k < GROUP_SIZE; k += 4)
        memcpy(panel_group + k * PANEL_COLUMNS + 4 * column, group->codes + k, 4);
    write_float16(panel_group + GROUP_SIZE * PANEL_COLUMNS, column, group->scale);
}

static void write_q4(uint8_t *panel_group, int32_t column, const struct group *group)
{
    for (int k = 0; k < GROUP_SIZE; k += 8)
        for (int i = 0; i < 4; i++)
            panel_group[k / 2 * PANEL_COLUMNS + 4 * column + i] =
                (uint8_t)(group->codes[k + i] | group->codes[k + 4 + i] << 4);
    uint8_t *scales = panel_group + GROUP_SIZE * PANEL_COLUMNS / 2;
    write_float16(scales, column, group->scale);
    write_float16(scales + sizeof(float16) * PANEL_COLUMNS, column, group->minimum);
}

static void pack_panel(const struct source_format *format, const uint8_t *columns,
                       int32_t num_columns, int32_t num_groups, enum weight_format target,
                       uint8_t *panel)
{
    size_t column_bytes = (size_t)num_groups * format->group_bytes;
    size_t group_bytes = matrix_panel_bytes(target, GROUP_SIZE);
    memset(panel, 0, (size_t)num_groups * group_bytes);
    for (int32_t i = 0; i < num_groups; i++)
        for (int32_t column = 0; column < num_columns; column++) {
            struct group group;
            format->read(columns + (size_t)column * column_bytes + (size_t)i * format->group_bytes,
                         &group);
            if (target == WEIGHTS_Q8)
                write_q8(panel + (size_t)i * group_bytes, column, &group);
            else
                write_q4(panel + (size_t)i * group_bytes, column, &group);
        }
}

static void pack(const struct source_format *format, const void *source, int32_t num_columns,
                 int32_t depth, int32_t panel_stride, enum weight_format target, void *panels)
{
    int32_t num_groups = depth / GROUP_SIZE;
    size_t column_bytes = (size_t)num_groups * format->group_bytes;
    size_t step = (size_t)panel_stride * matrix_panel_bytes(target, depth);
    for (int32_t panel = 0; panel < matrix_num_panels(num_columns); panel++) {
        int32_t first = panel * PANEL_COLUMNS;
        int32_t rest = num_columns - first;
        pack_panel(format, (const uint8_t *)source + (size_t)first * column_bytes,
                   rest < PANEL_COLUMNS ? rest : PANEL_COLUMNS, num_groups, target,
                   (uint8_t *)panels + (size_t)panel * step);
    }
}

void pack_q8(const float *weights, int32_t num_columns, int32_t depth, int32_t panel_stride,
             void *panels)
{
    pack(&floats_to_q8, weights, num_columns, depth, panel_stride, WEIGHTS_Q8, panels);
}

void pack_q4(const float *weights, int32_t num_columns, int32_t depth, int32_t panel_stride,
             void *panels)
{
    pack(&floats_to_q4, weights, num_columns, depth, panel_stride, WEIGHTS_Q4, panels);
}

void pack_q8_0(const void *blocks, int32_t num_columns, int32_t depth, int32_t panel_stride,
               void *panels)
{
    pack(&blocks_q8_0, blocks, num_columns, depth, panel_stride, WEIGHTS_Q8, panels);
}

void pack_q4_0(const void *blocks, int32_t num_columns, int32_t depth, int32_t panel_stride,
               void *panels)
{
    pack(&blocks_q4_0, blocks, num_columns, depth, panel_stride, WEIGHTS_Q4, panels);
}

void pack_q4_1(const void *blocks, int32_t num_columns, int32_t depth, int32_t panel_stride,
               void *panels)
{
    pack(&blocks_q4_1, blocks, num_columns, depth, panel_stride, WEIGHTS_Q4, panels);
}
