/* gemm_q8: products with weights of 8 bits in groups of 32, by vectors; many rows by tiles at
 * level amx.
 *
 * Both factors are signed. VNNI multiplies unsigned bytes with signed ones: 128 is added to the
 * codes of the rows, and 128 times the sum of the weights' codes is subtracted again. Without
 * VNNI, bytes are widened to 16 bits, the even and the odd ones apart; products of bytes do not
 * fit 16 bits, as those of Q4 do.
 */
#include "gemm_quantized.h"
#include "gemm_quantized_amx.h"
#include "vec_dot.h"

enum {
    STEP_DEPTH = 4, /* codes of one column that a lane holds */
    STEP_BYTES = STEP_DEPTH * PANEL_COLUMNS,
    FEW_ROWS = 4, /* with more, tiles are faster */
};

#if defined(__AVX512VNNI__)

/* 128 more, as unsigned bytes. They are to lie in memory, where a load repeats any four of them:
 * gcc would take them from registers, by two instructions each time. */
KERNEL_INLINE void shift_codes(const int8_t *codes, uint8_t shifted[GROUP_SIZE])
{
    for (int k = 0; k < GROUP_SIZE; k++)
        shifted[k] = (uint8_t)codes[k] ^ 0x80;
    __asm__("" : "+m"(*(uint8_t(*)[GROUP_SIZE])shifted));
}

KERNEL_INLINE void q8_dots(const uint8_t *slice, const int8_t *codes, size_t depth, int num_rows,
                           vec_i32 dots[][SLICE_VECS])
{
    const vec_i32 shift = (int32_t)0x80808080 - (vec_i32){0};
    uint8_t shifted[BLOCK_ROWS][GROUP_SIZE];
    vec_i32 excess[SLICE_VECS] = {{0}};
    for (int row = 0; row < num_rows; row++)
        shift_codes(codes + (size_t)row * depth, shifted[row]);
    for (int k = 0; k < GROUP_SIZE; k += STEP_DEPTH, slice += STEP_BYTES)
        for (int i = 0; i < SLICE_VECS; i++) {
            vec_i32 weights = vec_load_i32(slice + sizeof(vec) * (size_t)i);
            excess[i] = vec_dot4(excess[i], shift, weights);
            for (int row = 0; row < num_rows; row++)
                dots[row][i] = vec_dot4(dots[row][i], vec_repeat(shifted[row] + k), weights);
        }
    for (int row = 0; row < num_rows; row++)
        for (int i = 0; i < SLICE_VECS; i++)
            dots[row][i] -= excess[i];
}

#else

/* A group's codes as 16-bit numbers: in pair i, those of 4 i and 4 i + 2, or the ones after. */
struct widened {
    int16_t even[GROUP_SIZE / 2];
    int16_t odd[GROUP_SIZE / 2];
};

KERNEL_INLINE void widen_codes(const int8_t *codes, struct widened *widened)
{
    for (int i = 0; i < GROUP_SIZE / 2; i++) {
        widened->even[i] = codes[2 * i];
        widened->odd[i] = codes[2 * i + 1];
    }
}

KERNEL_INLINE void q8_dots(const uint8_t *slice, const int8_t *codes, size_t depth, int num_rows,
                           vec_i32 dots[][SLICE_VECS])
{
    struct widened widened[BLOCK_ROWS];
    for (int row = 0; row < num_rows; row++)
        widen_codes(codes + (size_t)row * depth, &widened[row]);
    for (int k = 0; k < GROUP_SIZE; k += STEP_DEPTH, slice += STEP_BYTES)
        for (int i = 0; i < SLICE_VECS; i++) {
            vec_i32 weights = vec_load_i32(slice + sizeof(vec) * (size_t)i);
            vec_i16 even = vec_even_bytes(weights), odd = vec_odd_bytes(weights);
            for (int row = 0; row < num_rows; row++)
                dots[row][i] +=
                    vec_dot2(even, (vec_i16)vec_repeat(widened[row].even + k / 2)) +
                    vec_dot2(odd, (vec_i16)vec_repeat(widened[row].odd + k / 2));
        }
}

#endif

void KERNEL(gemm_q8)(const struct gemm *gemm)
{
#if defined(__AMX_INT8__)
    struct gemm tiled, rest;
    cut_for_tiles(gemm, FEW_ROWS, &tiled, &rest);
    KERNEL(gemm_q8_tiles)(&tiled);
    multiply_panel(&rest, q8_dots, false);
#else
    multiply_panel(gemm, q8_dots, false);
#endif
}
