/* SwiGLU and addition against double, out to the largest floats. */
#include "kernel_test.h"

#include <float.h>

#include "kernels.h"

#define COUNT 1536
#define TOLERANCE (8 * 0x1p-24)

/* Where e^gate is below the normal floats, silu may be 0. */
#define VANISHING_SILU 1e-35

static double reference_silu(double x)
{
    return x / (1 + exp(-x));
}

static void check_swiglu(const float *gate, const float *up, const float *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        double expected = reference_silu(gate[i]) * up[i];
        double vanishing = VANISHING_SILU * fabs(up[i]);
        CHECK_CLOSE(out[i], expected, TOLERANCE * fabs(expected) + vanishing);
    }
}

static void swiglu_of_gates_between(float low, float high)
{
    float *gate = test_alloc_floats(COUNT, low, high);
    float *up = test_alloc_floats(COUNT, -3, 3);
    float *out = test_alloc(COUNT * sizeof(float));
    KERNEL(swiglu)(gate, up, COUNT, out);
    check_swiglu(gate, up, out, COUNT);
    test_free(gate), test_free(up), test_free(out);
}

static void swiglu_equals_the_reference_at_every_magnitude(void)
{
    swiglu_of_gates_between(-1e-30f, 1e-30f);
    swiglu_of_gates_between(-1e-3f, 1e-3f);
    swiglu_of_gates_between(-8, 8);
    swiglu_of_gates_between(-100, 100);
    swiglu_of_gates_between(-1e30f, 1e30f);
}

static void swiglu_of_the_extreme_floats_is_finite(void)
{
    static const float extremes[] = {0,     -0.0f,   FLT_MIN, -FLT_MIN, FLT_TRUE_MIN, -87.3f,
                                     88.8f, -88.8f,  -104,    104,      FLT_MAX,      -FLT_MAX};
    enum { NUM_EXTREMES = sizeof extremes / sizeof *extremes };
    float *gate = test_alloc(32 * sizeof(float));
    float *up = test_alloc_floats(32, 0.5f, 1);
    float *out = test_alloc(32 * sizeof(float));
    for (int32_t i = 0; i < 32; i++)
        gate[i] = extremes[i % NUM_EXTREMES];
    KERNEL(swiglu)(gate, up, 32, out);
    check_swiglu(gate, up, out, 32);
    test_free(gate), test_free(up), test_free(out);
}

static void swiglu_in_place_gives_the_same_bits(void)
{
    float *gate = test_alloc_floats(COUNT, -8, 8);
    float *up = test_alloc_floats(COUNT, -3, 3);
    float *out = test_alloc(COUNT * sizeof(float));
    KERNEL(swiglu)(gate, up, COUNT, out);
    KERNEL(swiglu)(gate, up, COUNT, gate);
    CHECK(memcmp(gate, out, COUNT * sizeof(float)) == 0);
    test_free(gate), test_free(up), test_free(out);
}

static void add_is_the_rounded_sum(void)
{
    float before[COUNT];
    float *x = test_alloc_floats(COUNT, -3, 3);
    float *y = test_alloc_floats(COUNT, -3, 3);
    memcpy(before, x, sizeof before);
    KERNEL(add)(x, y, COUNT);
    for (int32_t i = 0; i < COUNT; i++)
        CHECK(x[i] == before[i] + y[i]);
    test_free(x), test_free(y);
}

int main(void)
{
    kernel_test_begin();
    swiglu_equals_the_reference_at_every_magnitude();
    swiglu_of_the_extreme_floats_is_finite();
    swiglu_in_place_gives_the_same_bits();
    add_is_the_rounded_sum();
    puts("elementwise: ok");
    return 0;
}
