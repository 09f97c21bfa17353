#include "panel_product.h"

#include <stdbool.h>

static int32_t lesser(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static size_t tile_bytes(int32_t chunk_panels)
{
    return (size_t)TILE_ROWS * (size_t)chunk_panels * PANEL_COLUMNS * sizeof(float);
}

static size_t unpacked_panel_bytes(const struct matrix *matrix)
{
    return matrix_is_unpacked(matrix) ? matrix_panel_bytes(WEIGHTS_BF16, matrix->depth) : 0;
}

size_t panel_product_scratch_bytes(const struct matrix *matrix, int32_t chunk_panels)
{
    return tile_bytes(chunk_panels) + (size_t)chunk_panels * unpacked_panel_bytes(matrix);
}

int32_t panel_product_num_chunks(const struct panel_product *product)
{
    return matrix_num_panels(product->matrix->num_columns) / product->chunk_panels;
}

/* Whether a chunk is in the share that a member begins with. */
static bool is_own(const struct panel_product *product, int32_t chunk, int32_t member)
{
    struct chunks share = chunk_range_share(panel_product_num_chunks(product), member,
                                            product->num_members);
    return chunk >= share.first && chunk < share.first + share.count;
}

/* A prefetch of the member's next chunk, in the course of all blocks of rows. A single block takes
 * less time than its weights: the kernel's own prefetching does better then. */
static struct panel_prefetch fetch_next(const struct panel_product *product, int32_t chunk,
                                        int32_t member)
{
    const struct matrix *matrix = product->matrix;
    int32_t num_blocks = (product->num_rows + PREFETCH_ROWS - 1) / PREFETCH_ROWS;
    if (num_blocks == 1 || !is_own(product, chunk + 1, member))
        return (struct panel_prefetch){0};
    size_t num_panels = (size_t)product->chunk_panels;
    size_t num_steps = (size_t)num_blocks * num_panels * (size_t)(matrix->depth / GROUP_SIZE);
    return panel_prefetch_over(matrix_panel(matrix, (chunk + 1) * product->chunk_panels),
                               num_panels * matrix_panel_bytes(matrix->format, matrix->depth),
                               num_steps);
}

static void multiply_tile(const struct panel_product *product, const struct product_tile *tile,
                          char *unpacked, struct panel_prefetch *prefetch)
{
    struct gemm gemm = {
        .weights = product->matrix,
        .panel = tile->first_panel,
        .is_first = tile->first_row == 0,
        .is_last = tile->first_row + tile->num_rows == product->num_rows,
        .rows = product->rows,
        .first_row = tile->first_row,
        .num_rows = tile->num_rows,
        .out = tile->values,
        .out_stride = tile->stride,
        .unpacked = unpacked,
        .prefetch = prefetch,
    };
    for (int32_t i = 0; i < tile->num_panels; i++) {
        product->multiply(&gemm);
        gemm.panel++;
        gemm.out += PANEL_COLUMNS;
        gemm.unpacked = (char *)gemm.unpacked + unpacked_panel_bytes(product->matrix);
    }
}

/* The rows of a chunk from first_row on, with memory for their results. */
static struct product_tile tile_of(const struct panel_product *product, int32_t chunk,
                                   int32_t first_row, void *scratch)
{
    struct product_tile tile = {
        .first_row = first_row,
        .num_rows = lesser(TILE_ROWS, product->num_rows - first_row),
        .first_panel = chunk * product->chunk_panels,
        .num_panels = product->chunk_panels,
        .stride = product->chunk_panels * PANEL_COLUMNS,
        .values = scratch,
    };
    if (product->finish == NULL) {
        tile.stride = product->out_stride;
        tile.values = product->out + (size_t)first_row * (size_t)tile.stride +
                      (size_t)tile.first_panel * PANEL_COLUMNS;
    }
    return tile;
}

static void run_chunk(const struct panel_product *product, int32_t chunk, int32_t member,
                      void *scratch)
{
    char *unpacked = (char *)scratch + tile_bytes(product->chunk_panels);
    struct panel_prefetch prefetch = fetch_next(product, chunk, member);
    for (int32_t row = 0; row < product->num_rows; row += TILE_ROWS) {
        struct product_tile tile = tile_of(product, chunk, row, scratch);
        multiply_tile(product, &tile, unpacked, &prefetch);
        if (product->finish != NULL)
            product->finish(product->context, &tile);
    }
}

void panel_product_run(const struct panel_product *product, struct chunks chunks, int32_t member,
                       void *scratch)
{
    for (int32_t i = 0; i < chunks.count; i++)
        run_chunk(product, chunks.first + i, member, scratch);
}
