/* Products in bf16: right, and a row's bits its own; without an instruction for bf16, those of
 * gemm_f32 from the same numbers. */
#include "kernel_test.h"

#include "bf16.h"
#include "gemm_float_checks.h"
#include "pack.h"

static float round_to_bf16(float value)
{
    return bf16_to_float(bf16_from_float(value));
}

static void store_as_bf16(void *values, size_t index, float value)
{
    ((bf16 *)values)[index] = bf16_from_float(value);
}

#if !defined(__AVX512BF16__)

static void results_equal_those_of_float32(const struct float_format *format)
{
    enum { NUM_ROWS = 37, DEPTH = 416 };
    struct trial trial = new_trial(format, NUM_ROWS, 32, DEPTH, random_fraction);
    struct activations rows = {ACTIVATIONS_F32, DEPTH, DEPTH, trial.inputs, NULL, NULL};
    void *panels = test_alloc(matrix_panel_bytes(WEIGHTS_F32, DEPTH));
    struct matrix matrix = {WEIGHTS_F32, 32, DEPTH, panels, ACTIVATIONS_F32};
    float *out = test_alloc(NUM_ROWS * PANEL_COLUMNS * sizeof(float));
    float *expected = test_alloc(NUM_ROWS * PANEL_COLUMNS * sizeof(float));
    const struct gemm gemm = {.weights = &matrix, .is_first = true, .is_last = true,
                              .rows = &rows, .num_rows = NUM_ROWS,
                              .out = expected, .out_stride = PANEL_COLUMNS};
    pack_f32(trial.weights, 32, DEPTH, 1, panels);
    KERNEL(gemm_f32)(&gemm);
    multiply(&trial, 0, 0, NUM_ROWS, out, PANEL_COLUMNS);
    CHECK(memcmp(out, expected, NUM_ROWS * PANEL_COLUMNS * sizeof(float)) == 0);
    test_free(panels), test_free(out), test_free(expected), free_trial(&trial);
}

#endif

int main(void)
{
    static const struct float_format bf16_format = {
        .weights = WEIGHTS_BF16,
        .rows = ACTIVATIONS_BF16,
        .gemm = KERNEL(gemm_bf16),
        .pack = pack_bf16,
        .round = round_to_bf16,
        .store = store_as_bf16,
    };
    kernel_test_begin();
    check_float_format(&bf16_format);
#if !defined(__AVX512BF16__)
    results_equal_those_of_float32(&bf16_format);
#endif
    printf("gemm_bf16: ok\n");
    return 0;
}
