/* gemm_quantized_amx: what level amx has for many rows.
 *
 * Both functions are a gemm_panel (ops.h) and give the same bits as multiply_panel of
 * gemm_quantized.h, which is faster with few rows.
 */
#ifndef REALTIME_SERVE_GEMM_QUANTIZED_AMX_H
#define REALTIME_SERVE_GEMM_QUANTIZED_AMX_H

#include "kernels.h"

gemm_panel KERNEL(gemm_q8_tiles), KERNEL(gemm_q4_tiles);

/* A product in two: tiles take whole tiles of its rows, and what is left of them unless these are
 * few. Either may have no rows. */
static inline void cut_for_tiles(const struct gemm *gemm, int32_t few_rows, struct gemm *tiled,
                                 struct gemm *rest)
{
    const int32_t tile_rows = 16;
    int32_t num_left = gemm->num_rows % tile_rows;
    *tiled = *rest = *gemm;
    rest->num_rows = num_left <= few_rows ? num_left : 0;
    tiled->num_rows -= rest->num_rows;
    rest->first_row += tiled->num_rows;
    rest->out += (size_t)tiled->num_rows * (size_t)gemm->out_stride;
    rest->is_first = gemm->is_first && tiled->num_rows == 0;
}

#endif
