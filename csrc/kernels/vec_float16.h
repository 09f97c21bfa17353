/* vec_float16: vectors of float32 from float16 in memory. */
#ifndef REALTIME_SERVE_VEC_FLOAT16_H
#define REALTIME_SERVE_VEC_FLOAT16_H

#include "float16.h"
#include "vec.h"

/* As float16_to_float does it. */
KERNEL_INLINE vec vec_load_float16(const uint8_t *halves)
{
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
#else
    typedef uint16_t vec_f16 __attribute__((vector_size(2 * VEC_LANES)));
    vec_f16 lanes;
    memcpy(&lanes, halves, sizeof lanes);
    vec_u32 bits = __builtin_convertvector(lanes, vec_u32);
    vec_u32 rest = (bits & 0x7fff) << 13;
    vec_i32 is_finite = (vec_i32)(rest < 0x0f800000);
    vec magnitude = vec_select(is_finite, (vec)rest * 0x1p112f, (vec)(rest | 0x70000000));
    return (vec)((vec_u32)magnitude | (bits & 0x8000) << 16);
#endif
}

#endif
