/* rotary: turn the pairs of dimensions of a head by the angles of its position.
 *
 * Dimension i is paired with dimension i + head_dim / 2, as Hugging Face's checkpoints have it.
 */
#include "kernels.h"
#include "vec.h"

KERNEL_INLINE void rotate_head(const float *head, int32_t half, const float *cosines,
                               const float *sines, float *out)
{
    for (int32_t i = 0; i < half; i += VEC_LANES) {
        vec x = vec_load(head + i);
        vec y = vec_load(head + half + i);
        vec cosine = vec_load(cosines + i);
        vec sine = vec_load(sines + i);
        vec_store(out + i, vec_fma(x, cosine, -(y * sine)));
        vec_store(out + half + i, vec_fma(y, cosine, x * sine));
    }
}

void KERNEL(rotate)(const struct product_tile *tile, const float *cosines, const float *sines,
                    float *out, int32_t out_stride)
{
    int32_t half = tile->num_panels * PANEL_COLUMNS / 2;
    for (int32_t i = 0; i < tile->num_rows; i++) {
        size_t row = (size_t)i, angles = row * (size_t)half;
        rotate_head(tile->values + row * (size_t)tile->stride, half, cosines + angles,
                    sines + angles, out + row * (size_t)out_stride);
    }
}
