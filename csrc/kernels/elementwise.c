/* elementwise: sums of values one by one, between a layer's matrix products. */
#include "kernels.h"
#include "vec.h"

void KERNEL(add)(float *x, const float *y, int32_t count)
{
    for (int32_t i = 0; i < count; i += VEC_LANES)
        vec_store(x + i, vec_load(x + i) + vec_load(y + i));
}
