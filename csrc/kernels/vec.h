/* vec: vectors of float32 as wide as the CPU level has them, in plain C.
 *
 * These are the compiler's own vector types: `+`, `*` and conversions work lane by lane, and one
 * source serves every level. Sources are compiled with -ffp-contract=off, so that a product and a
 * sum become one fused operation only where vec_fma says so. A reduction keeps one partial sum a
 * lane and adds the lanes up in a fixed order at the end: its result depends on nothing but its
 * input and the level.
 */
#ifndef REALTIME_SERVE_VEC_H
#define REALTIME_SERVE_VEC_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VEC_LANES 16
#elif defined(__AVX2__)
#define VEC_LANES 8
#else
#define VEC_LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * VEC_LANES)));
typedef int32_t vec_i32 __attribute__((vector_size(4 * VEC_LANES)));
typedef uint32_t vec_u32 __attribute__((vector_size(4 * VEC_LANES)));

#define KERNEL_INLINE static inline __attribute__((always_inline))

KERNEL_INLINE vec vec_load(const float *values)
{
    vec result;
    memcpy(&result, values, sizeof result);
    return result;
}

KERNEL_INLINE void vec_store(float *values, vec vector)
{
    memcpy(values, &vector, sizeof vector);
}

KERNEL_INLINE vec vec_set1(float value)
{
    return value - (vec){0};
}

/* a * b + c, rounded once where the level has FMA and twice where it has not. */
KERNEL_INLINE vec vec_fma(vec a, vec b, vec c)
{
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* The lanes of `a` where the mask's lanes are -1, those of `b` where they are 0. */
KERNEL_INLINE vec vec_select(vec_i32 mask, vec a, vec b)
{
    return (vec)((mask & (vec_i32)a) | (~mask & (vec_i32)b));
}

/* The greater of each two lanes; that of `b` where one is NaN. */
KERNEL_INLINE vec vec_max(vec a, vec b)
{
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vec_select((vec_i32)(a > b), a, b);
#endif
}

/* 1 / x, to 1 unit in the last place, for x from 1 to 2. A division takes as long as all of vec_exp
 * on wide vectors; an estimate of 14 bits and one step of Newton's method do not. */
KERNEL_INLINE vec vec_reciprocal(vec x)
{
#if defined(__AVX512F__)
    vec estimate = (vec)_mm512_rcp14_ps((__m512)x);
    return vec_fma(estimate, vec_fma(-x, estimate, vec_set1(1.0f)), estimate);
#else
    return 1.0f / x;
#endif
}

KERNEL_INLINE vec vec_abs(vec vector)
{
    return (vec)((vec_i32)vector & 0x7fffffff);
}

/* By halves: lane i and lane i + n / 2, then the n / 2 sums likewise. The intrinsics do the same. */
KERNEL_INLINE float vec_sum(vec vector)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)vector);
#else
    float lanes[VEC_LANES];
    vec_store(lanes, vector);
    for (int width = VEC_LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lanes[i] += lanes[i + width];
    return lanes[0];
#endif
}

KERNEL_INLINE float vec_greatest(vec vector)
{
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)vector);
#else
    float lanes[VEC_LANES];
    vec_store(lanes, vector);
    float greatest = lanes[0];
    for (int i = 1; i < VEC_LANES; i++)
        greatest = lanes[i] > greatest ? lanes[i] : greatest;
    return greatest;
#endif
}

/* e to the power of each lane, to 2 units in the last place; 0 below -87.7 and at minus infinity,
 * NaN of NaN; for x up to 88. Cody and Waite's reduction, then the polynomial of Cephes' expf. */
KERNEL_INLINE vec vec_exp(vec x)
{
    /* 1.5 * 2^23 + 127: adding it drops the fraction, and the lowest bits of the sum are those of
     * the exponent of 2^power; they are 0, and so is the result, where x is at the lower bound. */
    const vec to_biased = vec_set1(12583039.0f);
    vec clamped = vec_max(vec_set1(-88.0f), x);
    vec biased = vec_fma(clamped, vec_set1(1.44269504088896341f), to_biased);
    vec power = biased - to_biased;
    vec r = vec_fma(power, vec_set1(-0.693359375f), clamped);
    r = vec_fma(power, vec_set1(2.12194440e-4f), r);
    vec p = vec_set1(1.9875691500e-4f);
    p = vec_fma(p, r, vec_set1(1.3981999507e-3f));
    p = vec_fma(p, r, vec_set1(8.3334519073e-3f));
    p = vec_fma(p, r, vec_set1(4.1665795894e-2f));
    p = vec_fma(p, r, vec_set1(1.6666665459e-1f));
    p = vec_fma(p, r, vec_set1(5.0000001201e-1f));
    p = vec_fma(p, r, vec_set1(1.0f));
    p = vec_fma(p, r, vec_set1(1.0f));
    return p * (vec)((vec_i32)biased << 23);
}

#endif
