/* gemm_bf16 at level amx. */
#include "level.h"

#if defined(__AMX_BF16__)

#include "gemm_bf16_amx.h"

void KERNEL(gemm_bf16)(const struct matrix *weights, int32_t panel, const struct activations *rows,
                       int32_t first_row, int32_t num_rows, float *out, int32_t out_stride,
                       void *unpacked, struct panel_prefetch *prefetch)
{
    multiply_panel(weights, panel, rows, first_row, num_rows, out, out_stride, unpacked, prefetch,
                   NULL);
}

#endif
