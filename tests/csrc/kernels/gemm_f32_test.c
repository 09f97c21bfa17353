/* Products in float32: right, and a row's bits its own. */
#include "kernel_test.h"

#include "gemm_float_checks.h"
#include "pack.h"

static float unchanged(float value)
{
    return value;
}

static void store_float(void *values, size_t index, float value)
{
    ((float *)values)[index] = value;
}

int main(void)
{
    static const struct float_format f32 = {
        .weights = WEIGHTS_F32,
        .rows = ACTIVATIONS_F32,
        .gemm = KERNEL(gemm_f32),
        .pack = pack_f32,
        .round = unchanged,
        .store = store_float,
    };
    kernel_test_begin();
    check_float_format(&f32);
    printf("gemm_f32: ok\n");
    return 0;
}
