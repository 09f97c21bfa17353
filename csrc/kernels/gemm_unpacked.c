/* gemm_unpacked: quantised weights times rows of bf16, at the levels without tiles.
 *
 * The panel is unpacked as a whole, into bf16 weights, and multiplied as such.
 */
#include "level.h"

#if !defined(__AMX_BF16__)

#include "kernels.h"
#include "unpack_group.h"
#include "vec_bf16.h"
#include "vec_dot.h"
#include "vec_float16.h"

/* Two codes of each of VEC_LANES columns become pairs of weights. */
KERNEL_INLINE void store_weights(vec_i32 first, vec_i32 second, vec scale, vec minimum,
                                 bf16 *pairs)
{
    vec_store_bf16_pairs(pairs, vec_fma(__builtin_convertvector(first, vec), scale, minimum),
                         vec_fma(__builtin_convertvector(second, vec), scale, minimum));
}

/* A lane holds the codes of k to k + 3, signed bytes. */
static void unpack_q8(const uint8_t *group, bf16 *weights)
{
    const uint8_t *scales = group + GROUP_SIZE * PANEL_COLUMNS;
    for (int column = 0; column < PANEL_COLUMNS; column += VEC_LANES) {
        vec scale = vec_load_float16(scales + sizeof(float16) * (size_t)column);
        for (int k = 0; k < GROUP_SIZE; k += 4) {
            vec_i32 codes = vec_load_i32(group + k * PANEL_COLUMNS + 4 * column);
            bf16 *pairs = weights + k * PANEL_COLUMNS + 2 * column;
            store_weights(codes << 24 >> 24, codes << 16 >> 24, scale, vec_set1(0.0f), pairs);
            store_weights(codes << 8 >> 24, codes >> 24, scale, vec_set1(0.0f),
                          pairs + 2 * PANEL_COLUMNS);
        }
    }
}

/* Four codes of 4 bits, each at the lower end of a byte. */
KERNEL_INLINE void store_q4_weights(vec_i32 codes, vec scale, vec minimum, bf16 *pairs)
{
    store_weights(codes & 15, codes >> 8 & 15, scale, minimum, pairs);
    store_weights(codes >> 16 & 15, codes >> 24 & 15, scale, minimum, pairs + 2 * PANEL_COLUMNS);
}

/* A lane holds the codes of k to k + 3 in the low halves of its bytes, and those of the 4 after. */
static void unpack_q4(const uint8_t *group, bf16 *weights)
{
    const uint8_t *scales = group + GROUP_SIZE / 2 * PANEL_COLUMNS;
    const uint8_t *minimums = scales + PANEL_COLUMNS * sizeof(float16);
    for (int column = 0; column < PANEL_COLUMNS; column += VEC_LANES) {
        vec scale = vec_load_float16(scales + sizeof(float16) * (size_t)column);
        vec minimum = vec_load_float16(minimums + sizeof(float16) * (size_t)column);
        for (int k = 0; k < GROUP_SIZE; k += 8) {
            vec_i32 codes = vec_load_i32(group + k / 2 * PANEL_COLUMNS + 4 * column);
            bf16 *pairs = weights + k * PANEL_COLUMNS + 2 * column;
            store_q4_weights(codes, scale, minimum, pairs);
            store_q4_weights(codes >> 4, scale, minimum, pairs + 4 * PANEL_COLUMNS);
        }
    }
}

static void unpack_panel(const struct gemm *gemm, unpack_group *unpack)
{
    const struct matrix *weights = gemm->weights;
    size_t group_bytes = matrix_panel_bytes(weights->format, GROUP_SIZE);
    const uint8_t *group = matrix_panel(weights, gemm->panel);
    for (int32_t k = 0; k < weights->depth; k += GROUP_SIZE, group += group_bytes)
        unpack(group, (bf16 *)gemm->unpacked + (size_t)k * PANEL_COLUMNS);
}

KERNEL_INLINE void multiply_panel(const struct gemm *gemm, unpack_group *unpack)
{
    const struct matrix panel = {
        .format = WEIGHTS_BF16,
        .num_columns = PANEL_COLUMNS,
        .depth = gemm->weights->depth,
        .panels = gemm->unpacked,
        .rows = ACTIVATIONS_BF16,
    };
    struct gemm product = *gemm;
    product.weights = &panel;
    product.panel = 0;
    if (gemm->is_first)
        unpack_panel(gemm, unpack);
    KERNEL(gemm_bf16)(&product);
}

void KERNEL(gemm_q8_bf16)(const struct gemm *gemm)
{
    multiply_panel(gemm, unpack_q8);
}

void KERNEL(gemm_q4_bf16)(const struct gemm *gemm)
{
    multiply_panel(gemm, unpack_q4);
}

#endif
