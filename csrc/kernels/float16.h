/* float16: IEEE half precision as its 16 bits, as GGUF files and panels store scales. */
#ifndef REALTIME_SERVE_FLOAT16_H
#define REALTIME_SERVE_FLOAT16_H

#include <stdint.h>
#include <string.h>

typedef uint16_t float16;

static inline float float16_from_bits_(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Exact. Normal numbers only need their exponent moved; multiplying by 2^112 does that, and turns
 * subnormal ones into normal ones on the way. */
static inline float float16_to_float(float16 half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t rest = (uint32_t)(half & 0x7fffu) << 13;
    if (rest >= 0x0f800000u) /* infinity or NaN */
        return float16_from_bits_(sign | 0x70000000u | rest);
    float magnitude = float16_from_bits_(rest) * 0x1p112f;
    return sign ? -magnitude : magnitude;
}

/* Rounds to nearest, ties to even; infinity from 65520 on; a NaN stays one. */
static inline float16 float16_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return (float16)(sign | 0x7e00u);
    if (rest >= 0x477ff000u)
        return (float16)(sign | 0x7c00u);
    if (rest < 0x38800000u) { /* subnormal: the unit of 0.5, 2^-24, is theirs */
        float shifted = float16_from_bits_(rest) + 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return (float16)(sign | (bits & 0x7fffu));
    }
    uint32_t nearest = rest + 0xfffu + (rest >> 13 & 1u);
    return (float16)(sign | (nearest - 0x38000000u) >> 13);
}

#endif
