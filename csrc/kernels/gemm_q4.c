/* gemm_q4: products with weights of 4 bits in groups of 32, by vectors; many rows by tiles at
 * level amx.
 *
 * A byte of the panel holds two codes, 0 to 15, of one column. They are split once for a block of
 * rows and multiplied as unsigned bytes with the signed ones of the rows: four at a time into 32
 * bits where the level has VNNI, else two at a time into 16 bits. These cannot overflow: the 16
 * products that a sum of a group takes in are at most 15 * 128 each, 30720 together.
 */
#include "gemm_quantized.h"
#include "gemm_quantized_amx.h"
#include "vec_dot.h"

enum {
    STEP_DEPTH = 8, /* codes of one column that a lane holds */
    STEP_BYTES = STEP_DEPTH / 2 * PANEL_COLUMNS,
    FEW_ROWS = 6, /* with more, tiles are faster */
};

KERNEL_INLINE void split_codes(const uint8_t *bytes, vec_i32 *low, vec_i32 *high)
{
    const vec_i32 mask = 0x0f0f0f0f - (vec_i32){0};
    vec_i32 both = vec_load_i32(bytes);
    *low = both & mask;
    *high = (both >> 4) & mask;
}

#if defined(__AVX512VNNI__)

KERNEL_INLINE void q4_dots(const uint8_t *slice, const int8_t *codes, size_t depth, int num_rows,
                           vec_i32 dots[][SLICE_VECS])
{
    for (int k = 0; k < GROUP_SIZE; k += STEP_DEPTH, slice += STEP_BYTES)
        for (int i = 0; i < SLICE_VECS; i++) {
            vec_i32 low, high;
            split_codes(slice + sizeof(vec) * (size_t)i, &low, &high);
            for (int row = 0; row < num_rows; row++) {
                const int8_t *step = codes + (size_t)row * depth + k;
                dots[row][i] = vec_dot4(dots[row][i], low, vec_repeat(step));
                dots[row][i] = vec_dot4(dots[row][i], high, vec_repeat(step + STEP_DEPTH / 2));
            }
        }
}

#else

KERNEL_INLINE void q4_dots(const uint8_t *slice, const int8_t *codes, size_t depth, int num_rows,
                           vec_i32 dots[][SLICE_VECS])
{
    const vec_i16 ones = 1 - (vec_i16){0};
    vec_i16 pairs[BLOCK_ROWS][SLICE_VECS] = {{{0}}};
    for (int k = 0; k < GROUP_SIZE; k += STEP_DEPTH, slice += STEP_BYTES)
        for (int i = 0; i < SLICE_VECS; i++) {
            vec_i32 low, high;
            split_codes(slice + sizeof(vec) * (size_t)i, &low, &high);
            for (int row = 0; row < num_rows; row++) {
                const int8_t *step = codes + (size_t)row * depth + k;
                pairs[row][i] += vec_dot2_bytes(low, vec_repeat(step)) +
                                 vec_dot2_bytes(high, vec_repeat(step + STEP_DEPTH / 2));
            }
        }
    for (int row = 0; row < num_rows; row++)
        for (int i = 0; i < SLICE_VECS; i++)
            dots[row][i] = vec_dot2(pairs[row][i], ones);
}

#endif

void KERNEL(gemm_q4)(const struct gemm *gemm)
{
#if defined(__AMX_INT8__)
    struct gemm tiled, rest;
    cut_for_tiles(gemm, FEW_ROWS, &tiled, &rest);
    KERNEL(gemm_q4_tiles)(&tiled);
    multiply_panel(&rest, q4_dots, true);
#else
    multiply_panel(gemm, q4_dots, true);
#endif
}
