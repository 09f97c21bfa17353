/* The one level that this build has is found, complete, and chosen. */
#include "kernel_test.h"

#include "kernels.h"

#define QUOTE_EXPANDED(name) #name
#define QUOTE(name) QUOTE_EXPANDED(name)

static void check_found(const struct kernel_ops *ops)
{
    CHECK(strcmp(cpu_level_name(ops->level), QUOTE(KERNEL_LEVEL)) == 0);
    for (int level = 0; level < NUM_CPU_LEVELS; level++) {
        const struct kernel_ops *expected = level == (int)ops->level ? ops : NULL;
        CHECK(kernel_ops_for((enum cpu_level)level) == expected);
    }
}

static void check_complete(const struct kernel_ops *ops)
{
    CHECK(ops->gemm[WEIGHTS_F32][ACTIVATIONS_F32] != NULL);
    CHECK(ops->gemm[WEIGHTS_BF16][ACTIVATIONS_BF16] != NULL);
    for (int format = WEIGHTS_Q8; format < NUM_WEIGHT_FORMATS; format++) {
        CHECK(ops->gemm[format][ACTIVATIONS_BF16] != NULL);
        CHECK(ops->gemm[format][ACTIVATIONS_Q8] != NULL);
    }
    for (int format = 0; format < NUM_ACTIVATION_FORMATS; format++)
        CHECK(ops->store[format] != NULL && ops->swiglu[format] != NULL);
    for (int format = 0; format < NUM_KV_FORMATS; format++)
        CHECK(ops->attend[format] != NULL);
    CHECK(ops->rms_norm != NULL && ops->rotate != NULL);
    CHECK(ops->add != NULL && ops->add_tile != NULL && ops->sample != NULL);
    CHECK(ops->kv_write_keys != NULL && ops->kv_write_values != NULL);
}

int main(void)
{
    kernel_test_begin();
    check_found(&KERNEL(kernel_ops));
    check_complete(&KERNEL(kernel_ops));
    CHECK(cpu_level_best() == KERNEL(kernel_ops).level);
    puts("cpu_level: ok");
    return 0;
}
