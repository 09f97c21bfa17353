/* elementwise: sums of values one by one, between a layer's matrix products. */
#include "kernels.h"
#include "vec.h"

KERNEL_INLINE void add(float *x, const float *y, int32_t count)
{
    for (int32_t i = 0; i < count; i += VEC_LANES)
        vec_store(x + i, vec_load(x + i) + vec_load(y + i));
}

void KERNEL(add)(float *x, const float *y, int32_t count)
{
    add(x, y, count);
}

void KERNEL(add_tile)(const struct product_tile *tile, const float *biases, float *sums,
                      int32_t width)
{
    size_t first_column = (size_t)tile->first_panel * PANEL_COLUMNS;
    int32_t count = tile->num_panels * PANEL_COLUMNS;
    for (int32_t row = 0; row < tile->num_rows; row++) {
        float *values = tile->values + (size_t)row * (size_t)tile->stride;
        if (biases != NULL)
            add(values, biases + first_column, count);
        add(sums + (size_t)(tile->first_row + row) * (size_t)width + first_column, values, count);
    }
}
