/* vec_dot: products of small whole numbers, added up in pairs or in fours.
 *
 * Vectors of bytes and of 16-bit numbers are as long as those of float32: a lane of 32 bits holds
 * four bytes or two 16-bit numbers, and what is added up stays within a lane.
 */
#ifndef REALTIME_SERVE_VEC_DOT_H
#define REALTIME_SERVE_VEC_DOT_H

#include "vec.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

typedef int16_t vec_i16 __attribute__((vector_size(4 * VEC_LANES)));
typedef uint16_t vec_u16_pairs __attribute__((vector_size(4 * VEC_LANES)));

KERNEL_INLINE vec_i32 vec_load_i32(const void *bytes)
{
    vec_i32 result;
    memcpy(&result, bytes, sizeof result);
    return result;
}

/* Four bytes, the same in every lane. */
KERNEL_INLINE vec_i32 vec_repeat(const void *bytes)
{
    int32_t lane;
    memcpy(&lane, bytes, sizeof lane);
    return lane - (vec_i32){0};
}

/* The first and third bytes of every lane, and the second and fourth, as signed numbers. */
KERNEL_INLINE vec_i16 vec_even_bytes(vec_i32 bytes)
{
    return (vec_i16)((vec_u16_pairs)bytes << 8) >> 8;
}

KERNEL_INLINE vec_i16 vec_odd_bytes(vec_i32 bytes)
{
    return (vec_i16)bytes >> 8;
}

/* In every lane, the sum of two products. */
KERNEL_INLINE vec_i32 vec_dot2(vec_i16 a, vec_i16 b)
{
#if defined(__AVX512BW__)
    return (vec_i32)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vec_i32)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (vec_i32)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    vec_i32 low = ((vec_i32)((vec_u32)a << 16) >> 16) * ((vec_i32)((vec_u32)b << 16) >> 16);
    return low + ((vec_i32)a >> 16) * ((vec_i32)b >> 16);
#endif
}

/* Products of unsigned bytes, at most 127, with signed ones, added up in pairs. */
KERNEL_INLINE vec_i16 vec_dot2_bytes(vec_i32 a, vec_i32 b)
{
#if defined(__AVX512BW__)
    return (vec_i16)_mm512_maddubs_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vec_i16)_mm256_maddubs_epi16((__m256i)a, (__m256i)b);
#else
    return vec_even_bytes(a) * vec_even_bytes(b) + vec_odd_bytes(a) * vec_odd_bytes(b);
#endif
}

#if defined(__AVX512VNNI__)

/* sums + the sum of four products of unsigned bytes with signed ones. */
KERNEL_INLINE vec_i32 vec_dot4(vec_i32 sums, vec_i32 a, vec_i32 b)
{
    return (vec_i32)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
}

#endif

#endif
