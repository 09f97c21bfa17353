#include "floors.h"

#include "amx.h"
#include "vec_dot.h"

/* The prefetch is the fastest of what was tried; loads alone are a fifth slower. */
float floor_read(const void *memory, size_t num_bytes)
{
    enum { AHEAD_BYTES = 1024, LINE_FLOATS = 16 };
    const float *values = memory, *end = values + num_bytes / sizeof(float);
    vec sums[LINE_FLOATS / VEC_LANES] = {{0}};
    for (; values < end; values += LINE_FLOATS) {
        __builtin_prefetch((const char *)values + AHEAD_BYTES);
        for (int i = 0; i < LINE_FLOATS / VEC_LANES; i++)
            sums[i] += vec_load(values + i * VEC_LANES);
    }
    for (int i = 1; i < LINE_FLOATS / VEC_LANES; i++)
        sums[0] += sums[i];
    return vec_sum(sums[0]);
}

/* ---- products on vectors ---- */

/* Enough for two instructions of a latency of five in each cycle, and few enough for the
 * registers of every level. */
enum { NUM_SUMS = 12 };

/* A lane's products: num_products of them, added to the sum. */
typedef vec multiply_add(vec sum);

KERNEL_INLINE float repeat_on_vectors(multiply_add *multiply, int num_products,
                                      double num_operations)
{
    vec sums[NUM_SUMS];
    for (int i = 0; i < NUM_SUMS; i++) /* different, or the compiler sees that one is enough */
        sums[i] = vec_set1((float)i);
    for (double done = 0; done < num_operations; done += 2.0 * num_products * NUM_SUMS * VEC_LANES)
        for (int i = 0; i < NUM_SUMS; i++)
            sums[i] = multiply(sums[i]);
    for (int i = 1; i < NUM_SUMS; i++)
        sums[0] += sums[i];
    return vec_sum(sums[0]);
}

KERNEL_INLINE vec multiply_f32(vec sum)
{
    return vec_fma(sum, vec_set1(0.5f), vec_set1(0.5f));
}

static float compute_f32(double num_operations)
{
    return repeat_on_vectors(multiply_f32, 1, num_operations);
}

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)

KERNEL_INLINE vec multiply_bf16(vec sum)
{
    __m512bh halves = (__m512bh)_mm512_set1_epi16(0x3f00);
    return (vec)_mm512_dpbf16_ps((__m512)sum, halves, halves);
}

#endif

#if !defined(__AMX_INT8__)

KERNEL_INLINE vec multiply_bytes(vec sum)
{
    vec_i32 ones = 0x01010101 - (vec_i32){0};
#if defined(__AVX512VNNI__)
    return (vec)vec_dot4((vec_i32)sum, ones, ones);
#else
    return (vec)(vec_dot2_bytes(ones, (vec_i32)sum) + (vec_i16)sum);
#endif
}

#endif

/* ---- products on tiles ---- */

#if defined(__AMX_TILE__)

/* Four sums from two tiles of rows and two of weights, as the products of this level do. */
static void configure_full_tiles(void)
{
    static const uint8_t FULL_TILES[AMX_NUM_TILES] = {16, 16, 16, 16, 16, 16, 16, 16};
    amx_configure(FULL_TILES);
}

static float compute_bf16(double num_operations)
{
    configure_full_tiles();
    for (double done = 0; done < num_operations; done += 4 * 2 * 16 * 16 * 32) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    return 0;
}

static float compute_bytes(double num_operations)
{
    configure_full_tiles();
    for (double done = 0; done < num_operations; done += 4 * 2 * 16 * 16 * 64) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    return 0;
}

#else

static float compute_bf16(double num_operations)
{
#if defined(__AVX512BF16__)
    return repeat_on_vectors(multiply_bf16, 2, num_operations);
#else
    return compute_f32(num_operations);
#endif
}

static float compute_bytes(double num_operations)
{
    return repeat_on_vectors(multiply_bytes, 4, num_operations);
}

#endif

float floor_compute(enum activation_format format, double num_operations)
{
    switch (format) {
    case ACTIVATIONS_F32:
        return compute_f32(num_operations);
    case ACTIVATIONS_BF16:
        return compute_bf16(num_operations);
    default:
        return compute_bytes(num_operations);
    }
}
