/* codes: floats as whole numbers of few bits, times a scale.
 *
 * What is rounded together shares one scale, greatest magnitude / greatest code. Codes are the
 * nearest whole numbers, ties to even. Everything here comes out alike on every CPU level.
 */
#ifndef REALTIME_SERVE_CODES_H
#define REALTIME_SERVE_CODES_H

#include <float.h>

#include "vec.h"

typedef int16_t vec_codes16 __attribute__((vector_size(2 * VEC_LANES)));
typedef int8_t vec_codes8 __attribute__((vector_size(VEC_LANES)));

/* Values below this are as good as 0. It leaves room for codes of 16 bits: no scale is subnormal,
 * and no factor infinite. */
#define CODES_LEAST_MAGNITUDE 1e-30f

struct code_steps {
    float scale;  /* code 1 as a float */
    float factor; /* makes a code of a float, but for its fraction */
};

/* The greater of each lane's magnitudes. As whole numbers, the bits of magnitudes have the same
 * order, and those of a NaN are the greatest of all: it is not lost. */
KERNEL_INLINE vec codes_greater(vec a, vec b)
{
    vec_i32 first = (vec_i32)vec_abs(a), second = (vec_i32)vec_abs(b);
#if defined(__AVX512F__)
    return (vec)_mm512_max_epi32((__m512i)first, (__m512i)second);
#elif defined(__AVX2__)
    return (vec)_mm256_max_epi32((__m256i)first, (__m256i)second);
#else
    vec_i32 is_greater = first > second;
    return (vec)((first & is_greater) | (second & ~is_greater));
#endif
}

/* Of the lanes that codes_greater() gave. */
KERNEL_INLINE float codes_greatest_lane(vec magnitudes)
{
#if defined(__AVX512F__)
    int32_t greatest = _mm512_reduce_max_epi32((__m512i)magnitudes);
#else
    int32_t lanes[VEC_LANES], greatest = 0;
    memcpy(lanes, &magnitudes, sizeof lanes);
    for (int32_t i = 0; i < VEC_LANES; i++)
        greatest = lanes[i] > greatest ? lanes[i] : greatest;
#endif
    float magnitude;
    memcpy(&magnitude, &greatest, sizeof magnitude);
    return magnitude;
}

/* The greatest magnitude; count is a multiple of 32. */
KERNEL_INLINE float codes_greatest(const float *values, int32_t count)
{
    vec greatest = vec_set1(0.0f);
    for (int32_t i = 0; i < count; i += VEC_LANES)
        greatest = codes_greater(greatest, vec_load(values + i));
    return codes_greatest_lane(greatest);
}

/* Values of which one is a NaN or infinite, which no code can stand for, get the scale NaN. */
KERNEL_INLINE struct code_steps codes_steps(float greatest, int32_t greatest_code)
{
    if (greatest >= CODES_LEAST_MAGNITUDE && greatest <= FLT_MAX)
        return (struct code_steps){greatest / (float)greatest_code,
                                   (float)greatest_code / greatest};
    return (struct code_steps){greatest < CODES_LEAST_MAGNITUDE ? 0.0f : greatest - greatest, 0.0f};
}

/* Codes in the low 16 bits of each lane; for a NaN, any. */
KERNEL_INLINE vec_i32 codes_of(vec values, float factor)
{
    /* 1.5 * 2^23: adding it drops the fraction, and leaves the rest in the lowest bits. */
    const vec to_nearest = vec_set1(12582912.0f);
    return (vec_i32)(values * factor + to_nearest);
}

KERNEL_INLINE void codes_store16(int16_t *codes, vec_i32 vector)
{
    vec_codes16 narrow = __builtin_convertvector(vector, vec_codes16);
    memcpy(codes, &narrow, sizeof narrow);
}

KERNEL_INLINE void codes_store8(void *codes, vec_i32 vector)
{
    vec_codes8 narrow = __builtin_convertvector(vector, vec_codes8);
    memcpy(codes, &narrow, sizeof narrow);
}

#endif
