/* activations: rows of float32 into the form that a product takes (matrix.h).
 *
 * Everything here rounds alike on every CPU level: no sum depends on its order, and none is fused
 * with a product.
 */
#include <float.h>

#include "kernels.h"
#include "vec_bf16.h"

#define GREATEST_CODE 127

/* Below this, a scale would be subnormal and its reciprocal too great. */
#define LEAST_MAGNITUDE 1e-35f

static size_t value_index(const struct activations *rows, int32_t row, int32_t column)
{
    return (size_t)row * (size_t)rows->stride + (size_t)column;
}

void KERNEL(store_f32)(const struct activations *rows, int32_t row, int32_t first_column,
                       const float *values, int32_t count)
{
    float *stored = (float *)rows->values + value_index(rows, row, first_column);
    memcpy(stored, values, (size_t)count * sizeof(float));
}

void KERNEL(store_bf16)(const struct activations *rows, int32_t row, int32_t first_column,
                        const float *values, int32_t count)
{
    bf16 *stored = (bf16 *)rows->values + value_index(rows, row, first_column);
    for (int32_t i = 0; i < count; i += VEC_LANES)
        vec_store_bf16(stored + i, vec_load(values + i));
}

/* The greatest magnitude. As whole numbers, the bits of magnitudes have the same order, and those
 * of a NaN are the greatest of all: it is not lost. */
static float greatest_magnitude(const float *values)
{
    int32_t greatest = 0;
    for (int i = 0; i < GROUP_SIZE; i++) {
        int32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        bits &= 0x7fffffff;
        greatest = bits > greatest ? bits : greatest;
    }
    float magnitude;
    memcpy(&magnitude, &greatest, sizeof magnitude);
    return magnitude;
}

/* The values in steps of 1 / factor, to the nearest whole number; returns the sum of the codes. */
static int32_t round_group(const float *values, float factor, int8_t *restrict codes)
{
    const float to_nearest = 12582912.0f; /* 1.5 * 2^23: adding it drops the fraction */
    int32_t sum = 0;
    for (int i = 0; i < GROUP_SIZE; i++) {
        int32_t code = (int32_t)(values[i] * factor + to_nearest - to_nearest);
        codes[i] = (int8_t)code;
        sum += code;
    }
    return sum;
}

/* A group with a NaN or an infinity, which no code can stand for, gets the scale NaN. */
static void store_q8_group(const float *values, int8_t *codes, float *scale, float *sum)
{
    float greatest = greatest_magnitude(values);
    if (greatest >= LEAST_MAGNITUDE && greatest <= FLT_MAX) {
        *scale = greatest / GREATEST_CODE;
        *sum = *scale * (float)round_group(values, GREATEST_CODE / greatest, codes);
    } else {
        *scale = *sum = greatest < LEAST_MAGNITUDE ? 0.0f : greatest - greatest;
        memset(codes, 0, GROUP_SIZE);
    }
}

void KERNEL(store_q8)(const struct activations *rows, int32_t row, int32_t first_column,
                      const float *values, int32_t count)
{
    size_t first = value_index(rows, row, first_column);
    for (int32_t i = 0; i < count; i += GROUP_SIZE) {
        size_t group = (first + (size_t)i) / GROUP_SIZE;
        store_q8_group(values + i, (int8_t *)rows->values + first + (size_t)i,
                       rows->scales + group, rows->sums + group);
    }
}
