/* gemm_quantized_amx: up to 16 rows times the 32 columns of a panel at once, by AMX tiles.
 *
 * A tile multiplies one group: 16 rows by 32 codes, times 32 codes by 16 columns. The group's
 * scales have to be applied before the next group is added, and tiles and vectors exchange values
 * through memory only. So a product is a row of jobs, a group times half of the panel's columns
 * each, which go through a pipeline:
 *
 *   unpack   4-bit codes become bytes, in a ring of four jobs
 *   start    TDPBSSD into one of two tiles                 about 50 cycles until it is done
 *   finish   store the tile, in a ring of two jobs
 *   scale    sums += dots * (column's scale * row's scale) (+ minimum * row's sum)
 *
 * While job i is scaled, i + 1 is finished, i + 3 started and i + 5 unpacked. A tile that is not
 * done when it is stored, or one that is loaded from what has just been stored, would stop the CPU
 * from running ahead.
 *
 * The sums of 16 rows and 16 columns fill the registers. Jobs therefore come in runs: the groups
 * of a window times the first half of the columns, then times the second half, then the next
 * window. Two jobs are a turn of the loop; if a window has an odd number of groups, the last one
 * comes twice, the second time with scales of 0.
 *
 * While tiles are in use, one of the CPU's two units for vector products rests: scaling takes
 * longer than multiplying.
 */
#include "level.h"

#if defined(__AMX_INT8__)

#include <stdbool.h>

#include "amx.h"
#include "gemm_quantized_amx.h"
#include "vec_float16.h"

enum {
    TILE_COLUMNS = 16,
    TILE_CODES = GROUP_SIZE * TILE_COLUMNS,
    QUAD_BYTES = 4 * PANEL_COLUMNS, /* codes with the same k / 4, a row of two tiles */
    WINDOW_GROUPS = 16,
    NUM_UNPACKED = 4, /* a power of two */
    PREFETCH_BYTES = 8192,
};

/* Up to 16 rows times one panel. */
struct block {
    const int8_t *codes; /* rows are depth apart */
    const float *scales; /* rows are num_groups apart, as in row_sums */
    const float *row_sums;
    size_t depth;
    int32_t num_rows;
    int32_t num_groups;
    const uint8_t *panel;
    size_t group_bytes;
    float *out;
    size_t out_stride;
    bool prefetches;
    struct panel_prefetch *ahead;
};

/* What the jobs leave for each other. The scales of the rows lie there for a window, at distances
 * that the compiler knows: to find them in a row of any length would take instructions. */
struct scratch {
    _Alignas(64) float dots[2][AMX_TILE_ROWS][TILE_COLUMNS];
    _Alignas(64) float scales[AMX_TILE_ROWS][WINDOW_GROUPS];
    _Alignas(64) float row_sums[AMX_TILE_ROWS][WINDOW_GROUPS];
    _Alignas(64) float sums[2][AMX_TILE_ROWS][TILE_COLUMNS];
    _Alignas(64) uint8_t unpacked[NUM_UNPACKED][TILE_CODES];
};

/* Where a step of the pipeline is. */
struct cursor {
    int32_t job; /* since the first */
    int32_t window;
    int32_t half;
    int32_t group; /* in the window */
    int32_t num_groups;
    const int8_t *codes;
    const uint8_t *weights;
};

struct pipeline {
    struct cursor unpack; /* Q4 only */
    struct cursor start;
};

/* ---- cursors ---- */

/* `window` is the first group of one. */
KERNEL_INLINE int32_t window_groups(const struct block *block, int32_t window)
{
    int32_t rest = block->num_groups - window;
    return rest < WINDOW_GROUPS ? rest : WINDOW_GROUPS;
}

static void begin_run(const struct block *block, struct cursor *cursor)
{
    cursor->group = 0;
    cursor->num_groups = window_groups(block, cursor->window);
    cursor->codes = block->codes + (size_t)cursor->window * GROUP_SIZE;
    cursor->weights = block->panel + (size_t)cursor->window * block->group_bytes +
                      cursor->half * 4 * TILE_COLUMNS;
}

/* After the last run comes the first one again: its jobs are started, but not finished. */
static void next_run(const struct block *block, struct cursor *cursor)
{
    cursor->half = !cursor->half;
    if (cursor->half == 0)
        cursor->window += WINDOW_GROUPS;
    if (cursor->window >= block->num_groups)
        cursor->window = 0;
    begin_run(block, cursor);
}

KERNEL_INLINE void advance(const struct block *block, struct cursor *cursor)
{
    cursor->job++;
    cursor->group++;
    if (cursor->group < cursor->num_groups) {
        cursor->codes += GROUP_SIZE;
        cursor->weights += block->group_bytes;
    } else if (cursor->group % 2 == 0) {
        next_run(block, cursor);
    }
}

/* ---- the steps of the pipeline ---- */

KERNEL_INLINE void unpack_job(const struct block *block, struct cursor *cursor,
                              struct scratch *scratch)
{
    const __m512i mask = _mm512_set1_epi8(15);
    uint8_t *codes = scratch->unpacked[cursor->job % NUM_UNPACKED];
    for (int i = 0; i < GROUP_SIZE / 8; i++, codes += 2 * AMX_ROW_BYTES) {
        __m512i both = _mm512_load_si512(cursor->weights + i * QUAD_BYTES);
        __m512i high = _mm512_srli_epi16(both, 4);
        _mm512_store_si512(codes, _mm512_and_si512(both, mask));
        _mm512_store_si512(codes + AMX_ROW_BYTES, _mm512_and_si512(high, mask));
    }
    amx_expose();
    advance(block, cursor);
}

/* Tiles 0 and 1: dots of even and of odd jobs; 2 and 3: rows; 4 and 5: weights. */
static void configure_tiles(int32_t num_rows)
{
    const uint64_t with_rows = 0x01010101, with_weights = 0x010100000000;
    const __m128i row_bytes = _mm_setr_epi16(AMX_ROW_BYTES, AMX_ROW_BYTES, GROUP_SIZE, GROUP_SIZE,
                                             AMX_ROW_BYTES, AMX_ROW_BYTES, 0, 0);
    amx_load_shapes(amx_shapes(with_rows * (uint64_t)num_rows + with_weights * (GROUP_SIZE / 4),
                               row_bytes));
}

KERNEL_INLINE void start_job(const struct block *block, struct pipeline *pipeline, bool is_odd,
                             bool is_q4, struct scratch *scratch)
{
    struct cursor *cursor = &pipeline->start;
    const uint8_t *weights = cursor->weights;
    size_t weight_stride = QUAD_BYTES;
    if (is_q4) {
        unpack_job(block, &pipeline->unpack, scratch);
        weights = scratch->unpacked[cursor->job % NUM_UNPACKED];
        weight_stride = AMX_ROW_BYTES;
    }
    if (is_odd) {
        _tile_zero(1);
        _tile_loadd(3, cursor->codes, block->depth);
        _tile_loadd(5, weights, weight_stride);
        _tile_dpbssd(1, 3, 5);
    } else {
        _tile_zero(0);
        _tile_loadd(2, cursor->codes, block->depth);
        _tile_loadd(4, weights, weight_stride);
        _tile_dpbssd(0, 2, 4);
    }
    advance(block, cursor);
}

KERNEL_INLINE void finish_job(struct scratch *scratch, bool is_odd)
{
    if (is_odd)
        _tile_stored(1, scratch->dots[1], AMX_ROW_BYTES);
    else
        _tile_stored(0, scratch->dots[0], AMX_ROW_BYTES);
}

/* `halves` are the float16 scales of the columns, `place` is the group's in the window. */
KERNEL_INLINE void scale_job(const struct scratch *scratch, bool is_odd, int32_t place,
                             const uint8_t *halves, int num_rows, bool is_q4, __m512 *sums)
{
    const float *scales = scratch->scales[0] + place, *row_sums = scratch->row_sums[0] + place;
    __m512 column_scale = (__m512)vec_load_float16(halves);
    __m512 minimum = is_q4 ? (__m512)vec_load_float16(halves + 2 * PANEL_COLUMNS) : _mm512_setzero_ps();
    for (int row = 0; row < num_rows; row++) {
        __m512 dot = _mm512_cvtepi32_ps(_mm512_load_si512(scratch->dots[is_odd][row]));
        __m512 scale = _mm512_mul_ps(column_scale, _mm512_set1_ps(scales[row * WINDOW_GROUPS]));
        __m512 row_sum = _mm512_set1_ps(row_sums[row * WINDOW_GROUPS]);
        sums[row] = _mm512_fmadd_ps(dot, scale, sums[row]);
        if (is_q4)
            sums[row] = _mm512_fmadd_ps(minimum, row_sum, sums[row]);
    }
}

/* ---- runs ---- */

KERNEL_INLINE void prefetch_part(const struct block *block, const uint8_t *part, size_t num_bytes)
{
    if (part + num_bytes <= block->panel + (size_t)block->num_groups * block->group_bytes)
        for (size_t i = 0; i < num_bytes; i += 64)
            _mm_prefetch(part + i, _MM_HINT_T1);
}

KERNEL_INLINE void multiply_run(const struct block *block, struct pipeline *pipeline,
                                int32_t window, int half, int num_rows, bool is_q4,
                                struct scratch *scratch)
{
    const size_t code_bytes = GROUP_SIZE * PANEL_COLUMNS / (is_q4 ? 2 : 1);
    int32_t num_groups = window_groups(block, window);
    const uint8_t *weights = block->panel + (size_t)window * block->group_bytes;
    const uint8_t *halves = weights + code_bytes + half * 2 * TILE_COLUMNS;
    const uint8_t *ahead =
        weights + PREFETCH_BYTES + (size_t)(half * num_groups / 2) * block->group_bytes;
    __m512 sums[AMX_TILE_ROWS];
    for (int row = 0; row < num_rows; row++)
        sums[row] = _mm512_load_ps(scratch->sums[half][row]);
    for (int32_t group = 0; group < num_groups; group += 2) {
        if (block->prefetches)
            prefetch_part(block, ahead + (size_t)group / 2 * block->group_bytes,
                          block->group_bytes);
        if (half == 0) /* so twice, for 32 rows, in two groups */
            panel_prefetch_advance(block->ahead);
        finish_job(scratch, true);
        start_job(block, pipeline, true, is_q4, scratch);
        scale_job(scratch, false, group, halves, num_rows, is_q4, sums);
        halves += group + 1 < num_groups ? block->group_bytes : 0;
        finish_job(scratch, false);
        start_job(block, pipeline, false, is_q4, scratch);
        scale_job(scratch, true, group + 1, halves, num_rows, is_q4, sums);
        halves += block->group_bytes;
    }
    for (int row = 0; row < num_rows; row++)
        _mm512_store_ps(scratch->sums[half][row], sums[row]);
}

/* Scales of groups past the last become 0. */
KERNEL_INLINE void load_window(const struct block *block, int32_t window, bool is_q4,
                               struct scratch *scratch)
{
    __mmask16 mask = (__mmask16)((1u << window_groups(block, window)) - 1);
    for (int32_t row = 0; row < block->num_rows; row++) {
        size_t index = (size_t)row * (size_t)block->num_groups + (size_t)window;
        _mm512_store_ps(scratch->scales[row], _mm512_maskz_loadu_ps(mask, block->scales + index));
        if (is_q4)
            _mm512_store_ps(scratch->row_sums[row],
                            _mm512_maskz_loadu_ps(mask, block->row_sums + index));
    }
}

/* ---- blocks ---- */

/* Rows that are scaled although they do not exist must not hold numbers that are slow to add. */
static void clear_rows(struct scratch *scratch, int first_row, int end_row)
{
    for (int row = first_row; row < end_row; row++) {
        memset(scratch->dots[0][row], 0, sizeof scratch->dots[0][row]);
        memset(scratch->dots[1][row], 0, sizeof scratch->dots[1][row]);
        memset(scratch->scales[row], 0, sizeof scratch->scales[row]);
        memset(scratch->row_sums[row], 0, sizeof scratch->row_sums[row]);
    }
}

KERNEL_INLINE void begin_pipeline(const struct block *block, struct pipeline *pipeline, bool is_q4,
                                  struct scratch *scratch)
{
    *pipeline = (struct pipeline){0};
    begin_run(block, &pipeline->unpack);
    begin_run(block, &pipeline->start);
    for (int i = 0; is_q4 && i < NUM_UNPACKED / 2; i++)
        unpack_job(block, &pipeline->unpack, scratch);
    start_job(block, pipeline, false, is_q4, scratch);
    start_job(block, pipeline, true, is_q4, scratch);
    finish_job(scratch, false);
    start_job(block, pipeline, false, is_q4, scratch);
}

/* num_rows is a constant wherever this is called: the rows of the block, rounded up. */
KERNEL_INLINE void multiply_rows(const struct block *block, int num_rows, bool is_q4)
{
    struct scratch scratch;
    struct pipeline pipeline;
    if (block->prefetches)
        prefetch_part(block, block->panel, PREFETCH_BYTES);
    clear_rows(&scratch, block->num_rows, num_rows);
    memset(scratch.sums, 0, sizeof scratch.sums);
    begin_pipeline(block, &pipeline, is_q4, &scratch);
    for (int32_t window = 0; window < block->num_groups; window += WINDOW_GROUPS) {
        load_window(block, window, is_q4, &scratch);
        for (int half = 0; half < 2; half++)
            multiply_run(block, &pipeline, window, half, num_rows, is_q4, &scratch);
    }
    for (int row = 0; row < block->num_rows; row++)
        for (int half = 0; half < 2; half++)
            memcpy(block->out + (size_t)row * block->out_stride + half * TILE_COLUMNS,
                   scratch.sums[half][row], sizeof scratch.sums[half][row]);
}

KERNEL_INLINE void multiply_block(const struct block *block, bool is_q4)
{
    configure_tiles(block->num_rows);
    if (block->num_rows <= 8)
        multiply_rows(block, 8, is_q4);
    else if (block->num_rows <= 12)
        multiply_rows(block, 12, is_q4);
    else
        multiply_rows(block, 16, is_q4);
}

KERNEL_INLINE void multiply_panel(const struct gemm *gemm, bool is_q4)
{
    const struct activations *rows = gemm->rows;
    size_t num_groups = (size_t)rows->depth / GROUP_SIZE;
    for (int32_t begin = 0; begin < gemm->num_rows; begin += AMX_TILE_ROWS) {
        int32_t rest = gemm->num_rows - begin;
        size_t row = (size_t)(gemm->first_row + begin);
        struct block block = {
            .codes = (const int8_t *)rows->values + row * (size_t)rows->stride,
            .scales = rows->scales + row * num_groups,
            .row_sums = rows->sums + row * num_groups,
            .depth = (size_t)rows->stride,
            .num_rows = rest < AMX_TILE_ROWS ? rest : AMX_TILE_ROWS,
            .num_groups = (int32_t)num_groups,
            .panel = matrix_panel(gemm->weights, gemm->panel),
            .group_bytes = is_q4 ? Q4_GROUP_BYTES : Q8_GROUP_BYTES,
            .out = gemm->out + (size_t)begin * (size_t)gemm->out_stride,
            .out_stride = (size_t)gemm->out_stride,
            .prefetches = gemm->is_first && begin == 0,
            .ahead = gemm->prefetch,
        };
        multiply_block(&block, is_q4);
    }
}

void KERNEL(gemm_q8_tiles)(const struct gemm *gemm)
{
    multiply_panel(gemm, false);
}

void KERNEL(gemm_q4_tiles)(const struct gemm *gemm)
{
    multiply_panel(gemm, true);
}

#endif
