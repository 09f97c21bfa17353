/* rotary: turn the pairs of dimensions of a head by the angles of its position.
 *
 * Dimension i is paired with dimension i + head_dim / 2, as Hugging Face's checkpoints have it.
 */
#include "kernels.h"
#include "vec.h"

void KERNEL(rotate)(float *head, int32_t head_dim, const float *cosines, const float *sines)
{
    int32_t half = head_dim / 2;
    for (int32_t i = 0; i < half; i += VEC_LANES) {
        vec x = vec_load(head + i);
        vec y = vec_load(head + half + i);
        vec cosine = vec_load(cosines + i);
        vec sine = vec_load(sines + i);
        vec_store(head + i, vec_fma(x, cosine, -(y * sine)));
        vec_store(head + half + i, vec_fma(y, cosine, x * sine));
    }
}
