/* rms_norm: each value over the root of the mean of the squares, times a weight of its own. */
#include <math.h>

#include "kernels.h"
#include "vec.h"

/* Two vectors of partial sums: few enough to add up exactly in order, and enough lanes that the
 * error of a sum of thousands stays near one rounding. */
static float mean_of_squares(const float *x, int32_t size)
{
    vec even = vec_set1(0.0f);
    vec odd = vec_set1(0.0f);
    for (int32_t i = 0; i < size; i += 2 * VEC_LANES) {
        vec first = vec_load(x + i);
        vec second = vec_load(x + i + VEC_LANES);
        even = vec_fma(first, first, even);
        odd = vec_fma(second, second, odd);
    }
    return vec_sum(even + odd) / (float)size;
}

void KERNEL(rms_norm)(const float *x, const float *weight, float epsilon, int32_t size, float *out)
{
    vec scale = vec_set1(1.0f / sqrtf(mean_of_squares(x, size) + epsilon));
    for (int32_t i = 0; i < size; i += VEC_LANES)
        vec_store(out + i, vec_load(x + i) * scale * vec_load(weight + i));
}
