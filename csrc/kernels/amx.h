/* amx: the tile registers of level amx, and what the compiler does not know about them.
 *
 * There are 8 tiles of up to 16 rows of 64 bytes. Their shapes are a configuration that a thread
 * loads. Every kernel that uses tiles loads its own at its beginning, so that nothing else has to
 * know; attention does so once for all products of a set of queries. Loading waits for all that is
 * under way (about 200 ns while weights stream from memory), so the configuration is read first,
 * which costs 4 ns, and loaded only if it is another one. It is therefore not released at a kernel's
 * end.
 *
 * The compiler does not know what the load of a tile reads: it may move stores past it, or leave
 * them out if they are to memory of the function's own, unless amx_expose stands between.
 */
#ifndef REALTIME_SERVE_AMX_H
#define REALTIME_SERVE_AMX_H

#if defined(__AMX_TILE__)

#include <immintrin.h>
#include <stdint.h>

#define AMX_TILE_ROWS 16
#define AMX_ROW_BYTES 64

/* The shapes of the tiles, as LDTILECFG takes them in its palette 1. Byte i of num_rows is how many
 * rows tile i has, 0 to 16, and 16-bit lane i of row_bytes how long they are: 0 if there are none. */
static inline __m512i amx_shapes(uint64_t num_rows, __m128i row_bytes)
{
    __m512i shapes = _mm512_zextsi128_si512(_mm_cvtsi32_si128(1));
    shapes = _mm512_inserti32x4(shapes, row_bytes, 1);
    return _mm512_inserti32x4(shapes, _mm_cvtsi64_si128((int64_t)num_rows), 3);
}

/* What the tiles held is lost, unless they had these shapes. Also exposes, as amx_expose, what was
 * stored before.
 *
 * The shapes come in a register, and are compared there: built in memory by smaller stores, they
 * could not be loaded before all stores so far have left the CPU's buffers.
 * _tile_loadconfig and _tile_storeconfig will not do: gcc 12 believes that they touch 8 bytes. */
static inline void amx_load_shapes(__m512i shapes)
{
    __m512i loaded;
    __asm__ volatile("sttilecfg %0" : "=m"(loaded) : : "memory");
    if (_mm512_cmpneq_epi64_mask(loaded, shapes) != 0)
        __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
}

/* Tiles of rows of AMX_ROW_BYTES; num_rows as above. A tile of no rows must not be used. */
static inline void amx_configure(uint64_t num_rows)
{
    __m128i bytes = _mm_cvtsi64_si128((int64_t)num_rows);
    __m128i lanes = _mm_cvtepu8_epi16(bytes);
    __m128i is_empty = _mm_cmpeq_epi16(lanes, _mm_setzero_si128());
    __m128i row_bytes = _mm_andnot_si128(is_empty, _mm_set1_epi16(AMX_ROW_BYTES));
    amx_load_shapes(amx_shapes(num_rows, row_bytes));
}

/* Everything that was stored before is in memory for the loads of tiles that follow. */
static inline void amx_expose(void)
{
    __asm__ volatile("" : : : "memory");
}

#endif
#endif
