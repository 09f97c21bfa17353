/* gemm_f32: float32 rows times panels of float32 weights. */
#include "gemm_float.h"
#include "kernels.h"

void KERNEL(gemm_f32)(const struct matrix *weights, int32_t panel, const struct activations *rows,
                      int32_t first_row, int32_t num_rows, float *out, int32_t out_stride,
                      void *unpacked, struct panel_prefetch *prefetch)
{
    (void)unpacked, (void)prefetch;
    multiply_panel(weights, panel, rows, first_row, num_rows, out, out_stride, multiply_add_f32);
}
