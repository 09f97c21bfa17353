/* Which panels, rows and memory a product gives to its kernel and its end, in which order, and what
 * it fetches meanwhile. The kernel and the end stand in: they write down what they were given. */
#include "kernel_test.h"

#include <stdbool.h>

#include "bf16.h"
#include "panel_product.h"

#define MAX_ROWS (3 * TILE_ROWS)
#define MAX_PANELS 40
#define DEPTH (3 * GROUP_SIZE)

/* A kernel is given no context, so what it writes down lies here. */
static struct {
    const struct panel_product *product;
    int32_t member;
    float *values;

    int32_t chunk; /* at work */
    int32_t next_panel;
    int32_t next_row; /* the first of the tile at work */
    int num_products[MAX_PANELS][MAX_ROWS];
    int num_finishes[MAX_PANELS][MAX_ROWS];
} run;

static int32_t tile_rows(void)
{
    int32_t num_left = run.product->num_rows - run.next_row;
    return num_left < TILE_ROWS ? num_left : TILE_ROWS;
}

/* A result that no other row and column has. */
static float result(int32_t panel, int32_t row, int32_t column)
{
    return (float)((panel * MAX_ROWS + row) * PANEL_COLUMNS + column);
}

/* ---- the prefetch ---- */

/* A product of more rows than a step of the prefetch fetches the next chunk of the member's own
 * share. */
static bool has_next(void)
{
    int32_t num_chunks = panel_product_num_chunks(run.product);
    struct chunks share = chunk_range_share(num_chunks, run.member, run.product->num_members);
    int32_t next = run.chunk + 1;
    return run.product->num_rows > PREFETCH_ROWS && next >= share.first &&
           next < share.first + share.count;
}

/* It begins with the chunk. */
static void check_prefetch(const struct panel_prefetch *prefetch, bool begins_tile)
{
    const struct matrix *matrix = run.product->matrix;
    int32_t chunk_panels = run.product->chunk_panels;
    if (!has_next()) {
        CHECK(prefetch->next >= prefetch->end);
        return;
    }
    const char *from = matrix_panel(matrix, (run.chunk + 1) * chunk_panels);
    CHECK(!begins_tile || (prefetch->next == from) == (run.next_row == 0));
    CHECK(!begins_tile || run.next_row > 0 || prefetch->next < prefetch->end);
    CHECK(prefetch->next >= from && prefetch->next <= prefetch->end);
    CHECK(prefetch->end == (const char *)matrix_panel(matrix, (run.chunk + 2) * chunk_panels));
}

/* ---- memory for unpacked weights ---- */

/* What the first call of a panel leaves there, the others find. */
static void check_unpacked(const struct matrix *weights, int32_t panel, bool is_first,
                           unsigned char *unpacked)
{
    size_t num_bytes = matrix_panel_bytes(WEIGHTS_BF16, DEPTH);
    if (!matrix_is_unpacked(weights))
        return;
    CHECK((uintptr_t)unpacked % 64 == 0);
    if (is_first)
        memset(unpacked, panel, num_bytes);
    for (size_t i = 0; i < num_bytes; i++)
        CHECK(unpacked[i] == panel);
}

/* ---- what stands in for a kernel and an end ---- */

static void write_results(int32_t panel, int32_t first_row, int32_t num_rows, float *out,
                          int32_t out_stride)
{
    for (int32_t row = 0; row < num_rows; row++) {
        run.num_products[panel][first_row + row]++;
        for (int32_t column = 0; column < PANEL_COLUMNS; column++)
            out[row * out_stride + column] = result(panel, first_row + row, column);
    }
}

/* After a tile comes that of the next rows, or the next chunk's first. */
static void go_on(int32_t num_rows)
{
    run.next_row += num_rows;
    if (run.next_row == run.product->num_rows) {
        run.next_row = 0;
        run.chunk++;
    }
    run.next_panel = run.chunk * run.product->chunk_panels;
}

static void check_operands(const struct gemm *gemm)
{
    const struct panel_product *product = run.product;
    CHECK(gemm->weights == product->matrix && gemm->rows == product->rows);
    CHECK(gemm->panel == run.next_panel++);
    CHECK(gemm->first_row == run.next_row && gemm->num_rows == tile_rows());
    CHECK(gemm->is_first == (gemm->first_row == 0));
    CHECK(gemm->is_last == (gemm->first_row + gemm->num_rows == product->num_rows));
}

static void check_out_of(const struct gemm *gemm)
{
    const struct panel_product *product = run.product;
    int32_t first_panel = run.chunk * product->chunk_panels;
    if (product->finish == NULL) {
        CHECK(gemm->out_stride == product->out_stride);
        CHECK(gemm->out == product->out + gemm->first_row * gemm->out_stride +
                               gemm->panel * PANEL_COLUMNS);
    } else {
        CHECK(gemm->out_stride == product->chunk_panels * PANEL_COLUMNS);
        CHECK(gemm->out == run.values + (gemm->panel - first_panel) * PANEL_COLUMNS);
    }
}

static void advance(const struct gemm *gemm)
{
    for (int32_t row = 0; row < gemm->num_rows; row += PREFETCH_ROWS)
        for (int32_t group = 0; group < DEPTH / GROUP_SIZE; group++)
            panel_prefetch_advance(gemm->prefetch);
}

static void write_down_product(const struct gemm *gemm)
{
    int32_t first_panel = run.chunk * run.product->chunk_panels;
    bool is_last_panel = gemm->panel + 1 == first_panel + run.product->chunk_panels;
    check_operands(gemm);
    check_out_of(gemm);
    check_unpacked(gemm->weights, gemm->panel, gemm->is_first, gemm->unpacked);
    check_prefetch(gemm->prefetch, gemm->panel == first_panel);
    advance(gemm);
    CHECK(!is_last_panel || !gemm->is_last || gemm->prefetch->next == gemm->prefetch->end);
    write_results(gemm->panel, gemm->first_row, gemm->num_rows, gemm->out, gemm->out_stride);
    if (is_last_panel && run.product->finish == NULL)
        go_on(gemm->num_rows);
}

static void check_results(const struct product_tile *tile)
{
    for (int32_t row = 0; row < tile->num_rows; row++)
        for (int32_t i = 0; i < tile->stride; i++)
            CHECK(tile->values[row * tile->stride + i] ==
                  result(tile->first_panel + i / PANEL_COLUMNS, tile->first_row + row,
                         i % PANEL_COLUMNS));
}

static void check_tile(const struct product_tile *tile)
{
    int32_t chunk_panels = run.product->chunk_panels;
    CHECK(tile->first_row == run.next_row && tile->num_rows == tile_rows());
    CHECK(tile->first_panel == run.chunk * chunk_panels && tile->num_panels == chunk_panels);
    CHECK(run.next_panel == tile->first_panel + chunk_panels);
    CHECK(tile->values == run.values && tile->stride == chunk_panels * PANEL_COLUMNS);
    check_results(tile);
}

static void write_down_finish(void *context, const struct product_tile *tile)
{
    CHECK(context == &run);
    check_tile(tile);
    for (int32_t panel = 0; panel < tile->num_panels; panel++)
        for (int32_t row = 0; row < tile->num_rows; row++)
            run.num_finishes[tile->first_panel + panel][tile->first_row + row]++;
    go_on(tile->num_rows);
}

/* ---- tests ---- */

static void run_chunks(const struct panel_product *product, struct chunks chunks, int32_t member)
{
    run.product = product;
    run.member = member;
    run.chunk = chunks.first;
    run.next_panel = chunks.first * product->chunk_panels;
    run.values = test_alloc(panel_product_scratch_bytes(product->matrix, product->chunk_panels));
    panel_product_run(product, chunks, member, run.values);
    CHECK(run.chunk == chunks.first + chunks.count);
    test_free(run.values);
}

static void check_each_row_and_panel_once(int32_t num_panels, int32_t num_rows)
{
    for (int32_t panel = 0; panel < MAX_PANELS; panel++)
        for (int32_t row = 0; row < MAX_ROWS; row++) {
            int expected = panel < num_panels && row < num_rows;
            CHECK(run.num_products[panel][row] == expected);
            CHECK(run.num_finishes[panel][row] == expected);
        }
}

/* Each member runs its share in two parts, and the last chunk is another's. */
static void run_all_chunks(const struct panel_product *product, int32_t num_chunks)
{
    for (int32_t member = 0; member < product->num_members; member++) {
        struct chunks share = chunk_range_share(num_chunks, member, product->num_members);
        int32_t half = share.count / 2, last = share.count > 0;
        struct chunks parts[] = {{share.first, half},
                                 {share.first + half, share.count - half - last},
                                 {share.first + share.count - last, last}};
        run_chunks(product, parts[0], member);
        run_chunks(product, parts[1], member);
        run_chunks(product, parts[2], (member + 1) % product->num_members);
    }
}

static void check_out(const struct panel_product *product, int32_t num_panels)
{
    for (int32_t row = 0; row < product->num_rows; row++)
        for (int32_t i = 0; i < product->out_stride; i++) {
            float found = product->out[row * product->out_stride + i];
            int32_t panel = i / PANEL_COLUMNS;
            if (panel < num_panels)
                CHECK(found == result(panel, row, i % PANEL_COLUMNS));
            else
                CHECK(isnan(found)); /* nobody wrote it */
        }
}

/* Without an end results stay in memory of the caller's, whose rows are a line longer. */
static void results_stay_where_they_are_without_an_end(struct panel_product product,
                                                       int32_t num_chunks)
{
    int32_t num_panels = num_chunks * product.chunk_panels;
    product.finish = NULL;
    product.context = NULL;
    product.out_stride = num_panels * PANEL_COLUMNS + 16;
    product.out = test_alloc((size_t)(product.num_rows * product.out_stride) * sizeof(float));
    memset(&run, 0, sizeof run);
    run_all_chunks(&product, num_chunks);
    check_out(&product, num_panels);
    test_free(product.out);
}

static void each_panel_meets_each_row_once(enum weight_format format,
                                           enum activation_format row_format, int32_t num_rows,
                                           int32_t chunk_panels, int32_t num_members)
{
    static char panels[MAX_PANELS * DEPTH * PANEL_COLUMNS * sizeof(float)]; /* of any format */
    int32_t num_chunks = 12, num_panels = num_chunks * chunk_panels;
    struct matrix matrix = {.format = format, .num_columns = num_panels * PANEL_COLUMNS - 5,
                            .depth = DEPTH, .panels = panels, .rows = row_format};
    static bf16 values[MAX_ROWS][DEPTH];
    struct activations rows = {.depth = DEPTH, .values = values};
    struct panel_product product = {.multiply = write_down_product, .matrix = &matrix,
                                    .rows = &rows, .num_rows = num_rows,
                                    .chunk_panels = chunk_panels, .num_members = num_members,
                                    .finish = write_down_finish, .context = &run};
    memset(&run, 0, sizeof run);
    CHECK(panel_product_num_chunks(&product) == num_chunks);
    run_all_chunks(&product, num_chunks);
    check_each_row_and_panel_once(num_panels, num_rows);
    results_stay_where_they_are_without_an_end(product, num_chunks);
}

static void check_formats(enum weight_format format, enum activation_format row_format)
{
    static const int32_t num_rows[] = {1, 7, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1,
                                       2 * TILE_ROWS, 2 * TILE_ROWS + 5, MAX_ROWS};
    for (size_t i = 0; i < sizeof num_rows / sizeof *num_rows; i++)
        for (int32_t chunk_panels = 1; chunk_panels <= 3; chunk_panels++)
            for (int32_t num_members = 1; num_members <= 13; num_members += 4)
                each_panel_meets_each_row_once(format, row_format, num_rows[i], chunk_panels,
                                               num_members);
}

int main(void)
{
    check_formats(WEIGHTS_F32, ACTIVATIONS_F32);
    check_formats(WEIGHTS_BF16, ACTIVATIONS_BF16);
    for (int format = WEIGHTS_Q8; format < NUM_WEIGHT_FORMATS; format++) {
        check_formats((enum weight_format)format, ACTIVATIONS_Q8);
        check_formats((enum weight_format)format, ACTIVATIONS_BF16);
    }
    puts("panel_product: ok");
    return 0;
}
