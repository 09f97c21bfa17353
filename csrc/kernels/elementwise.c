/* elementwise: the operations between a layer's matrix products that take values one by one. */
#include "kernels.h"
#include "vec.h"

/* 1 / (1 + e^-x). The exponential is that of -|x|, so that it cannot overflow. */
KERNEL_INLINE vec sigmoid(vec x)
{
    vec power = vec_exp(-vec_abs(x));
    vec numerator = vec_select((vec_i32)(x < 0.0f), power, vec_set1(1.0f));
    return numerator * vec_reciprocal(1.0f + power);
}

void KERNEL(swiglu)(const float *gate, const float *up, int32_t count, float *out)
{
    for (int32_t i = 0; i < count; i += VEC_LANES) {
        vec x = vec_load(gate + i);
        vec_store(out + i, x * sigmoid(x) * vec_load(up + i));
    }
}

void KERNEL(add)(float *x, const float *y, int32_t count)
{
    for (int32_t i = 0; i < count; i += VEC_LANES)
        vec_store(x + i, vec_load(x + i) + vec_load(y + i));
}
