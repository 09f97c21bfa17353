/* RMSNorm against its definition in double. */
#include "kernel_test.h"

#include "kernels.h"

#define EPSILON 1e-5f

/* A few roundings of the result, and those of a sum of thousands in 8 lanes or more. */
#define TOLERANCE (16 * 0x1p-24)

static double reference_scale(const float *x, int32_t size)
{
    double sum = 0;
    for (int32_t i = 0; i < size; i++)
        sum += (double)x[i] * x[i];
    return 1 / sqrt(sum / size + (double)EPSILON);
}

static void check_row(int32_t size, float magnitude)
{
    float *x = test_alloc_floats((size_t)size, -magnitude, magnitude);
    float *weight = test_alloc_floats((size_t)size, -2, 2);
    float *out = test_alloc((size_t)size * sizeof(float));
    KERNEL(rms_norm)(x, weight, EPSILON, size, out);

    double scale = reference_scale(x, size);
    for (int32_t i = 0; i < size; i++)
        CHECK_RELATIVE(out[i], x[i] * scale * weight[i], TOLERANCE);
    test_free(x), test_free(weight), test_free(out);
}

static void every_size_and_magnitude_equals_the_reference(void)
{
    static const int32_t sizes[] = {32, 64, 96, 576, 4096, 8192};
    static const float magnitudes[] = {1e-6f, 1e-3f, 1, 1e4f, 1e15f};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t j = 0; j < sizeof magnitudes / sizeof *magnitudes; j++)
            check_row(sizes[i], magnitudes[j]);
}

static void a_row_of_zeros_stays_zero(void)
{
    float *x = test_alloc_floats(64, 0, 0);
    float *weight = test_alloc_floats(64, 1, 2);
    float *out = test_alloc(64 * sizeof(float));
    KERNEL(rms_norm)(x, weight, EPSILON, 64, out);
    for (int i = 0; i < 64; i++)
        CHECK(out[i] == 0);
    test_free(x), test_free(weight), test_free(out);
}

static void in_place_gives_the_same_bits(void)
{
    enum { SIZE = 576 };
    float *x = test_alloc_floats(SIZE, -3, 3);
    float *weight = test_alloc_floats(SIZE, -2, 2);
    float *out = test_alloc(SIZE * sizeof(float));
    KERNEL(rms_norm)(x, weight, EPSILON, SIZE, out);
    KERNEL(rms_norm)(x, weight, EPSILON, SIZE, x);
    CHECK(memcmp(x, out, SIZE * sizeof(float)) == 0);
    test_free(x), test_free(weight), test_free(out);
}

int main(void)
{
    kernel_test_begin();
    every_size_and_magnitude_equals_the_reference();
    a_row_of_zeros_stays_zero();
    in_place_gives_the_same_bits();
    puts("rms_norm: ok");
    return 0;
}
