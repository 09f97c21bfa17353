/* gemm_quantized_amx: what level amx has for many rows.
 *
 * Both functions are a gemm_panel (ops.h) and give the same bits as multiply_panel of
 * gemm_quantized.h, which is faster with few rows.
 */
#ifndef REALTIME_SERVE_GEMM_QUANTIZED_AMX_H
#define REALTIME_SERVE_GEMM_QUANTIZED_AMX_H

#include "kernels.h"

gemm_panel KERNEL(gemm_q8_tiles), KERNEL(gemm_q4_tiles);

/* How many of `num_rows` rows to multiply by tiles: whole tiles of rows, and the rest of the rows
 * unless these are few. */
static inline int32_t rows_for_tiles(int32_t num_rows, int32_t few_rows)
{
    const int32_t tile_rows = 16;
    int32_t rest = num_rows % tile_rows;
    return rest <= few_rows ? num_rows - rest : num_rows;
}

#endif
