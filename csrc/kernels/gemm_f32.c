/* gemm_f32: float32 rows times panels of float32 weights. */
#include "gemm_float.h"
#include "kernels.h"

void KERNEL(gemm_f32)(const struct gemm *gemm)
{
    multiply_panel(gemm, multiply_add_f32);
}
