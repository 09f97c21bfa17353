/* vec_bf16: vectors of float32 from and to bf16 in memory. */
#ifndef REALTIME_SERVE_VEC_BF16_H
#define REALTIME_SERVE_VEC_BF16_H

#include "bf16.h"
#include "vec.h"

typedef uint16_t vec_u16 __attribute__((vector_size(2 * VEC_LANES)));

/* Rounds each lane as bf16_from_float does, into its low 16 bits; the others are 0. */
KERNEL_INLINE vec_u32 vec_round_bf16(vec vector)
{
#if defined(__AVX512BF16__)
    return (vec_u32)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)vector));
#else
    vec_u32 bits = (vec_u32)vector;
    vec_u32 nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    vec_u32 is_nan = (vec_u32)(vector != vector);
    vec_u32 is_subnormal = (vec_u32)((bits & 0x7f800000) == 0);
    nearest = (nearest & ~is_nan) | (((bits >> 16) | 0x40) & is_nan);
    return (nearest & ~is_subnormal) | ((bits >> 16) & 0x8000 & is_subnormal);
#endif
}

/* Rounds each lane likewise. */
KERNEL_INLINE void vec_store_bf16(bf16 *values, vec vector)
{
#if defined(__AVX512BF16__)
    __m256bh rounded = _mm512_cvtneps_pbh((__m512)vector);
#else
    vec_u16 rounded = __builtin_convertvector(vec_round_bf16(vector), vec_u16);
#endif
    memcpy(values, &rounded, sizeof rounded);
}

/* Rounds and stores VEC_LANES pairs. */
KERNEL_INLINE void vec_store_bf16_pairs(bf16 *pairs, vec first, vec second)
{
    vec_u32 both = vec_round_bf16(first) | vec_round_bf16(second) << 16;
    memcpy(pairs, &both, sizeof both);
}

/* The first and the second of each of VEC_LANES pairs. */
KERNEL_INLINE void vec_load_bf16_pairs(const bf16 *pairs, vec *first, vec *second)
{
    vec_u32 bits;
    memcpy(&bits, pairs, sizeof bits);
    *first = (vec)(bits << 16); /* little-endian, as all that we run on */
    *second = (vec)(bits & 0xffff0000);
}

#endif
