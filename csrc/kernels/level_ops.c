#include "kernels.h"

/* The level's number by its name, which is all that the build says. */
enum {
    number_portable = CPU_PORTABLE,
    number_avx2 = CPU_AVX2,
    number_avx512 = CPU_AVX512,
    number_avx512_bf16 = CPU_AVX512_BF16,
    number_amx = CPU_AMX,
};

const struct kernel_ops KERNEL(kernel_ops) = {
    .level = (enum cpu_level)KERNEL(number),
    .gemm =
        {
            [WEIGHTS_F32][ACTIVATIONS_F32] = KERNEL(gemm_f32),
            [WEIGHTS_BF16][ACTIVATIONS_BF16] = KERNEL(gemm_bf16),
            [WEIGHTS_Q8][ACTIVATIONS_Q8] = KERNEL(gemm_q8),
            [WEIGHTS_Q8][ACTIVATIONS_BF16] = KERNEL(gemm_q8_bf16),
            [WEIGHTS_Q4][ACTIVATIONS_Q8] = KERNEL(gemm_q4),
            [WEIGHTS_Q4][ACTIVATIONS_BF16] = KERNEL(gemm_q4_bf16),
        },
    .store =
        {
            [ACTIVATIONS_F32] = KERNEL(store_f32),
            [ACTIVATIONS_BF16] = KERNEL(store_bf16),
            [ACTIVATIONS_Q8] = KERNEL(store_q8),
        },
    .swiglu =
        {
            [ACTIVATIONS_F32] = KERNEL(swiglu_f32),
            [ACTIVATIONS_BF16] = KERNEL(swiglu_bf16),
            [ACTIVATIONS_Q8] = KERNEL(swiglu_q8),
        },
    .rms_norm = KERNEL(rms_norm),
    .rotate = KERNEL(rotate),
    .add_tile = KERNEL(add_tile),
    .add = KERNEL(add),
    .kv_write_keys = KERNEL(kv_write_keys),
    .kv_write_values = KERNEL(kv_write_values),
    .attend =
        {
            [KV_F32] = KERNEL(attend_f32),
            [KV_BF16] = KERNEL(attend_bf16),
            [KV_INT8] = KERNEL(attend_int8),
        },
    .sample = KERNEL(sample),
};
