/* kernels: what the kernel sources define at each CPU level; ops.h says what each one does. */
#ifndef REALTIME_SERVE_KERNELS_H
#define REALTIME_SERVE_KERNELS_H

#include "level.h"
#include "ops.h"

gemm_panel KERNEL(gemm_f32), KERNEL(gemm_bf16), KERNEL(gemm_q8), KERNEL(gemm_q4);
gemm_panel KERNEL(gemm_q8_bf16), KERNEL(gemm_q4_bf16); /* rows of bf16 */

store_activations KERNEL(store_f32), KERNEL(store_bf16), KERNEL(store_q8);

swiglu_tile KERNEL(swiglu_f32), KERNEL(swiglu_bf16), KERNEL(swiglu_q8);

void KERNEL(rms_norm)(const float *x, const float *weight, float epsilon, int32_t size, float *out);
void KERNEL(add)(float *x, const float *y, int32_t count);

add_product_tile KERNEL(add_tile);
rotate_tile KERNEL(rotate);
kv_write_tile KERNEL(kv_write_keys), KERNEL(kv_write_values);

void KERNEL(attend_f32)(const struct kv_cache *cache, const struct attention_tile *tile,
                        void *scratch);
void KERNEL(attend_bf16)(const struct kv_cache *cache, const struct attention_tile *tile,
                         void *scratch);
void KERNEL(attend_int8)(const struct kv_cache *cache, const struct attention_tile *tile,
                         void *scratch);

sample_row KERNEL(sample);

extern const struct kernel_ops KERNEL(kernel_ops);

#endif
