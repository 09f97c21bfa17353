/* gemm_bf16 at level amx. */
#include "level.h"

#if defined(__AMX_BF16__)

#include "gemm_bf16_amx.h"

void KERNEL(gemm_bf16)(const struct gemm *gemm)
{
    multiply_panel(gemm, NULL);
}

#endif
