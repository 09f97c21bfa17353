/* vec_lanes: what a comparison says about each lane, as bits, and sums wider than a lane.
 *
 * Bit i stands for lane i.
 */
#ifndef REALTIME_SERVE_VEC_LANES_H
#define REALTIME_SERVE_VEC_LANES_H

#include "vec.h"

KERNEL_INLINE uint32_t lanes_at_least(vec a, vec b)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
#elif defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GE_OQ));
#else
    uint32_t lanes = 0;
    for (int i = 0; i < VEC_LANES; i++)
        lanes |= (uint32_t)(a[i] >= b[i]) << i;
    return lanes;
#endif
}

KERNEL_INLINE uint32_t lanes_equal(vec a, vec b)
{
    return lanes_at_least(a, b) & lanes_at_least(b, a);
}

KERNEL_INLINE int32_t lanes_count(uint32_t lanes)
{
    return __builtin_popcount(lanes);
}

/* -1 in the lanes whose bits are set, 0 in the others; higher bits do not matter. */
KERNEL_INLINE vec_i32 lanes_mask(uint32_t lanes)
{
    vec_i32 bits;
    for (int i = 0; i < VEC_LANES; i++)
        bits[i] = 1 << i;
    return ((int32_t)lanes & bits) == bits;
}

/* Store the chosen lanes one after the other and give their number. Overwrites up to VEC_LANES
 * floats, whatever the number. */
KERNEL_INLINE int32_t lanes_store(float *out, vec vector, uint32_t lanes)
{
#if defined(__AVX512F__)
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps((__mmask16)lanes, (__m512)vector));
#else
    float *next = out;
    for (int i = 0; i < VEC_LANES; i++) {
        *next = vector[i];
        next += lanes >> i & 1;
    }
#endif
    return lanes_count(lanes);
}

/* ---- sums in float64 ---- */

typedef float vec_half __attribute__((vector_size(2 * VEC_LANES)));
typedef double vec_f64 __attribute__((vector_size(4 * VEC_LANES)));

/* Starts as {0}. */
struct wide_sum {
    vec_f64 low;
    vec_f64 high;
};

KERNEL_INLINE void wide_add(struct wide_sum *sum, vec vector)
{
    vec_half halves[2];
    memcpy(halves, &vector, sizeof halves);
    sum->low += __builtin_convertvector(halves[0], vec_f64);
    sum->high += __builtin_convertvector(halves[1], vec_f64);
}

/* The sum of all lanes. */
KERNEL_INLINE double wide_total(const struct wide_sum *sum)
{
    vec_f64 lanes = sum->low + sum->high;
    double total = 0;
    for (int i = 0; i < VEC_LANES / 2; i++)
        total += lanes[i];
    return total;
}

#endif
