/* bf16: bfloat16 values as their 16 bits, the upper half of a float32. */
#ifndef REALTIME_SERVE_BF16_H
#define REALTIME_SERVE_BF16_H

#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

static inline float bf16_to_float(bf16 value)
{
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Rounds to nearest, ties to even, as VCVTNEPS2BF16 does; a NaN stays one. Subnormal results
 * become zero there and here, so that every level stores the same. */
static inline bf16 bf16_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value)
        return (bf16)((bits >> 16) | 0x40);
    if ((bits & 0x7f800000u) == 0)
        return (bf16)((bits >> 16) & 0x8000u);
    return (bf16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif
