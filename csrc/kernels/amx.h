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
#include <string.h>

#define AMX_NUM_TILES 8
#define AMX_TILE_ROWS 16
#define AMX_ROW_BYTES 64

/* The operand of LDTILECFG, in the form of its palette 1. What is not used must be zero. */
struct amx_configuration {
    uint8_t palette;
    uint8_t first_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t num_rows[16];
};

/* _tile_loadconfig and _tile_storeconfig will not do: gcc 12 believes that they touch 8 bytes.
 * Also exposes, as amx_expose, what was stored before. */
static inline void amx_load_configuration(const struct amx_configuration *configuration)
{
    struct amx_configuration loaded;
    __asm__ volatile("sttilecfg %0" : "=m"(loaded) : : "memory");
    if (memcmp(&loaded, configuration, sizeof loaded) != 0)
        __asm__ volatile("ldtilecfg %0" : : "m"(*configuration));
}

/* Tile i gets num_rows[i] rows, 0 to 16, of 64 bytes; a tile of no rows must not be used. What
 * the tiles held is lost. */
static inline void amx_configure(const uint8_t num_rows[AMX_NUM_TILES])
{
    struct amx_configuration configuration = {.palette = 1};
    for (int i = 0; i < AMX_NUM_TILES; i++) {
        configuration.row_bytes[i] = num_rows[i] > 0 ? AMX_ROW_BYTES : 0;
        configuration.num_rows[i] = num_rows[i];
    }
    amx_load_configuration(&configuration);
}

/* Everything that was stored before is in memory for the loads of tiles that follow. */
static inline void amx_expose(void)
{
    __asm__ volatile("" : : : "memory");
}

#endif
#endif
