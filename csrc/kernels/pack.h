/* pack: weight matrices into panels (matrix.h), once, when a model is loaded.
 *
 * The source is [num_columns][depth]: one row an output, as checkpoints store it. depth is a
 * multiple of GROUP_SIZE. Panel p of the source goes to panel p * panel_stride of `panels`, which
 * must be aligned to 64 bytes; a stride of 2 lets two matrices alternate. Columns past
 * num_columns, in the last panel, become zeros.
 */
#ifndef REALTIME_SERVE_PACK_H
#define REALTIME_SERVE_PACK_H

#include <stdint.h>

#include "matrix.h"

typedef void pack_floats(const float *weights, int32_t num_columns, int32_t depth,
                         int32_t panel_stride, void *panels);
typedef void pack_blocks(const void *blocks, int32_t num_columns, int32_t depth,
                         int32_t panel_stride, void *panels);

/* Round to the format of the panels. */
pack_floats pack_f32, pack_bf16;

/* Quantise groups of 32: Q8 with scale = greatest magnitude / 127; Q4 with
 * scale = (greatest - least) / 15 and minimum = least; both rounded to float16 first. */
pack_floats pack_q8, pack_q4;

/* Take a GGUF file's codes and scales unchanged. A source row is depth / 32 blocks:
 *   Q8_0  float16 scale, int8 codes[32]                                    34 bytes -> WEIGHTS_Q8
 *   Q4_0  float16 scale, codes of k = i (low half) and k = i + 16 (high half) in byte i < 16;
 *         weight = scale * (code - 8)                                      18 bytes -> WEIGHTS_Q4
 *   Q4_1  float16 scale, float16 minimum, codes likewise;
 *         weight = scale * code + minimum                                  20 bytes -> WEIGHTS_Q4
 */
pack_blocks pack_q8_0, pack_q4_0, pack_q4_1;

#endif
