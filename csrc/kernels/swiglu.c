/* swiglu: silu(gate) * up, from a tile of a product to the activations of the next one.
 *
 * A tile goes from the first cache to where down reads it in one pass. A result that is rounded to
 * bf16 has 8 bits, so its sigmoid needs no more than a few beyond them.
 */
#include "kernels.h"
#include "vec_bf16.h"
#include "vec_power.h"

/* 1 / (1 + e^-x). The exponential is that of -|x|, so that it cannot overflow. */
KERNEL_INLINE vec sigmoid(vec x)
{
    vec power = vec_exp(-vec_abs(x));
    vec numerator = vec_select((vec_i32)(x < 0.0f), power, vec_set1(1.0f));
    return numerator * vec_reciprocal(1.0f + power);
}

/* sigmoid() to 13 bits at least. The power may be infinite here: its reciprocal is 0. */
KERNEL_INLINE vec sigmoid_to_13_bits(vec x)
{
#if defined(__AVX512DQ__)
    vec power = vec_power_of_two(x * vec_set1(-VEC_LOG2_E));
    return (vec)_mm512_rcp14_ps((__m512)(1.0f + power));
#else
    return sigmoid(x);
#endif
}

/* The biases of a tile's columns; NULL is none. */
struct biases {
    const float *gate;
    const float *up;
};

KERNEL_INLINE vec load_biased(const float *values, const float *biases, int32_t column)
{
    vec loaded = vec_load(values + column);
    return biases == NULL ? loaded : loaded + vec_load(biases + column);
}

/* A vector of the results of a row, which begins with its gate. */
KERNEL_INLINE vec swiglu(const float *row, struct biases biases, int32_t column,
                         vec sigmoid_of(vec))
{
    vec gate = load_biased(row, biases.gate, column);
    vec up = load_biased(row + PANEL_COLUMNS, biases.up, column);
    return gate * sigmoid_of(gate) * up;
}

static const float *row_of(const struct product_tile *tile, int32_t row)
{
    return tile->values + (size_t)row * (size_t)tile->stride;
}

static size_t value_index(const struct activations *rows, int32_t row, int32_t column)
{
    return (size_t)row * (size_t)rows->stride + (size_t)column;
}

void KERNEL(swiglu_f32)(const struct product_tile *tile, const float *gate_bias,
                        const float *up_bias, const struct activations *rows,
                        int32_t first_column)
{
    float *stored = (float *)rows->values + value_index(rows, tile->first_row, first_column);
    struct biases biases = {gate_bias, up_bias};
    for (int32_t i = 0; i < tile->num_rows; i++, stored += rows->stride)
        for (int32_t column = 0; column < PANEL_COLUMNS; column += VEC_LANES)
            vec_store(stored + column, swiglu(row_of(tile, i), biases, column, sigmoid));
}

void KERNEL(swiglu_bf16)(const struct product_tile *tile, const float *gate_bias,
                         const float *up_bias, const struct activations *rows,
                         int32_t first_column)
{
    bf16 *stored = (bf16 *)rows->values + value_index(rows, tile->first_row, first_column);
    struct biases biases = {gate_bias, up_bias};
    for (int32_t i = 0; i < tile->num_rows; i++, stored += rows->stride)
        for (int32_t column = 0; column < PANEL_COLUMNS; column += VEC_LANES)
            vec_store_bf16(stored + column,
                           swiglu(row_of(tile, i), biases, column, sigmoid_to_13_bits));
}

void KERNEL(swiglu_q8)(const struct product_tile *tile, const float *gate_bias,
                       const float *up_bias, const struct activations *rows,
                       int32_t first_column)
{
    float results[PANEL_COLUMNS];
    struct biases biases = {gate_bias, up_bias};
    for (int32_t i = 0; i < tile->num_rows; i++) {
        for (int32_t column = 0; column < PANEL_COLUMNS; column += VEC_LANES)
            vec_store(results + column, swiglu(row_of(tile, i), biases, column, sigmoid));
        KERNEL(store_q8)(rows, tile->first_row + i, first_column, results, PANEL_COLUMNS);
    }
}
