/* gemm_unpacked at level amx: quantised weights become pairs of bf16, as tiles want them.
 *
 * One byte permutation does most of it. It puts a code into the mantissa of a float32 whose other
 * bits say 2^n, so that the float is 2^n + code, and puts the two codes of a column that belong
 * together into neighbouring lanes. A product and a sum then give scale * code + minimum; rounding
 * two vectors of these to one of bf16 gives a row of a tile.
 *
 * That 2^n disappears again costs no precision that matters: scale and minimum have 11 bits, so
 * minimum - 2^n scale is exact unless one of them is much greater than the other.
 */
#include "level.h"

#if defined(__AMX_BF16__)

#include "gemm_bf16_amx.h"
#include "vec_float16.h"

enum {
    VEC_BYTES = 64,
    STEP_ROW_BYTES = 4 * PANEL_COLUMNS, /* packed bytes with the same k / 4, or k / 8 */
    NUM_HALVES = PANEL_COLUMNS / TILE_COLUMNS,
};

/* Where a code goes in a float32, whose first byte is its lowest, and what that is worth. */
#define SECOND_BYTE 0x2222222222222222u
#define THIRD_BYTE 0x4444444444444444u
#define BITS_OF_2_POWER(n) ((127 + (n)) << 23)

/* ---- scales of 16 columns, twice each: a lane for either code of a pair ---- */

struct column_values {
    __m512 of_low_columns; /* 0 to 7 */
    __m512 of_high_columns;
};

KERNEL_INLINE struct column_values twice_each(__m512 columns)
{
    const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    return (struct column_values){
        _mm512_permutexvar_ps(low, columns),
        _mm512_permutexvar_ps(high, columns),
    };
}

/* ---- codes ---- */

/* Of 16 columns with 4 codes each: for each of 8 columns from first_column on, its codes `pair` and
 * pair + 1, wherever `place` says that lanes take a byte. */
KERNEL_INLINE __m512 codes_in_floats(__m512i codes, int first_column, int pair, uint64_t place,
                                     __m512i power)
{
    const __m512i lane = _mm512_setr_epi32(
        0x00000000, 0x01010101, 0x04040404, 0x05050505, 0x08080808, 0x09090909, 0x0c0c0c0c,
        0x0d0d0d0d, 0x10101010, 0x11111111, 0x14141414, 0x15151515, 0x18181818, 0x19191919,
        0x1c1c1c1c, 0x1d1d1d1d);
    __m512i source = _mm512_add_epi8(lane, _mm512_set1_epi8((char)(4 * first_column + pair)));
    return (__m512)_mm512_mask_permutexvar_epi8(power, place, source, codes);
}

/* 4 codes of 16 columns: two rows of a tile. */
KERNEL_INLINE void unpack_codes(__m512i codes, uint64_t place, int32_t power,
                                struct column_values scale, struct column_values offset,
                                bf16 *weights)
{
    const __m512i power_bits = _mm512_set1_epi32(BITS_OF_2_POWER(power));
    for (int pair = 0; pair < 4; pair += 2) {
        __m512 low = codes_in_floats(codes, 0, pair, place, power_bits);
        __m512 high = codes_in_floats(codes, TILE_COLUMNS / 2, pair, place, power_bits);
        low = _mm512_fmadd_ps(low, scale.of_low_columns, offset.of_low_columns);
        high = _mm512_fmadd_ps(high, scale.of_high_columns, offset.of_high_columns);
        _mm512_store_si512(weights + pair * PANEL_COLUMNS,
                           (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* ---- groups ---- */

/* Signed codes, made unsigned by adding 128. */
KERNEL_INLINE void unpack_q8(const uint8_t *group, bf16 *weights)
{
    const __m512i sign_bits = _mm512_set1_epi8((char)0x80);
    const uint8_t *scales = group + GROUP_SIZE * PANEL_COLUMNS;
    for (int half = 0; half < NUM_HALVES; half++) {
        __m512 scale = (__m512)vec_load_float16(scales + half * TILE_COLUMNS * sizeof(float16));
        __m512 offset = _mm512_mul_ps(scale, _mm512_set1_ps(-0x1p15f - 128.0f));
        const uint8_t *source = group + half * VEC_BYTES;
        bf16 *target = weights + half * 2 * TILE_COLUMNS;
        for (int k = 0; k < GROUP_SIZE; k += 4, source += STEP_ROW_BYTES)
            unpack_codes(_mm512_xor_si512(_mm512_load_si512(source), sign_bits), SECOND_BYTE, 15,
                         twice_each(scale), twice_each(offset), target + k * PANEL_COLUMNS);
    }
}

/* The low and the high half of a byte differ by 16 in what their bits are worth. */
KERNEL_INLINE void unpack_q4(const uint8_t *group, bf16 *weights)
{
    const __m512i low_half = _mm512_set1_epi8(0x0f), high_half = _mm512_set1_epi8((char)0xf0);
    const uint8_t *scales = group + GROUP_SIZE / 2 * PANEL_COLUMNS;
    const uint8_t *minimums = scales + PANEL_COLUMNS * sizeof(float16);
    for (int half = 0; half < NUM_HALVES; half++) {
        __m512 scale = (__m512)vec_load_float16(scales + half * TILE_COLUMNS * sizeof(float16));
        __m512 minimum = (__m512)vec_load_float16(minimums + half * TILE_COLUMNS * sizeof(float16));
        __m512 low_offset = _mm512_fmadd_ps(scale, _mm512_set1_ps(-0x1p7f), minimum);
        __m512 high_offset = _mm512_fmadd_ps(scale, _mm512_set1_ps(-0x1p11f), minimum);
        const uint8_t *source = group + half * VEC_BYTES;
        bf16 *target = weights + half * 2 * TILE_COLUMNS;
        for (int k = 0; k < GROUP_SIZE; k += 8, source += STEP_ROW_BYTES) {
            __m512i both = _mm512_load_si512(source);
            unpack_codes(_mm512_and_si512(both, low_half), THIRD_BYTE, 7, twice_each(scale),
                         twice_each(low_offset), target + k * PANEL_COLUMNS);
            unpack_codes(_mm512_and_si512(both, high_half), SECOND_BYTE, 11, twice_each(scale),
                         twice_each(high_offset), target + (k + 4) * PANEL_COLUMNS);
        }
    }
}

/* ---- products ---- */

void KERNEL(gemm_q8_bf16)(const struct gemm *gemm)
{
    multiply_panel(gemm, unpack_q8);
}

void KERNEL(gemm_q4_bf16)(const struct gemm *gemm)
{
    multiply_panel(gemm, unpack_q4);
}

#endif
