/* panel_product: a matrix product of a step, of any number of rows and panels, and its end.
 *
 * The members of the pool share a product by panels. A chunk is the panels that have to be finished
 * together, a head or a gate and its up; a member takes a chunk and all rows, tile after tile:
 *
 *   for each chunk           its panels arrive from memory once, and stay in the second cache
 *     for each tile of rows
 *       multiply
 *       finish               the tile of results, while it is in the first cache
 *
 * and fetches its next chunk meanwhile (panel_prefetch.h). The order changes no bit of a result.
 * Without an end, results are written at once to where they stay.
 */
#ifndef REALTIME_SERVE_PANEL_PRODUCT_H
#define REALTIME_SERVE_PANEL_PRODUCT_H

#include "compute_pool.h"
#include "ops.h"

/* Rows of a tile: an AMX kernel loads a panel once for all of them, and the results of a chunk of two
 * panels still fit the first cache. */
#define TILE_ROWS 128

/* Takes a tile of results over. */
typedef void finish_product(void *context, const struct product_tile *tile);

struct panel_product {
    gemm_panel *multiply;
    const struct matrix *matrix;
    const struct activations *rows;
    int32_t num_rows;
    int32_t chunk_panels; /* divides the number of panels */
    int32_t num_members; /* of the pool, that take part */
    finish_product *finish; /* NULL: results stay in `out` */
    void *context;          /* for `finish` */
    float *out;
    int32_t out_stride; /* floats from a row to the next */
};

/* Bytes of memory that a member needs: for a tile of results, and for a chunk of quantised weights
 * as bf16 if the matrix is multiplied so. */
size_t panel_product_scratch_bytes(const struct matrix *matrix, int32_t chunk_panels);

/* How many chunks there are for the pool. */
int32_t panel_product_num_chunks(const struct panel_product *product);

/* Multiply all rows with the panels of some chunks. `scratch` is the member's own, aligned to 64
 * bytes. */
void panel_product_run(const struct panel_product *product, struct chunks chunks, int32_t member,
                       void *scratch);

#endif
