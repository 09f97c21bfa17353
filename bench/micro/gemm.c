/* gemm: the matrix products of one step, beside the floor that memory and arithmetic set.
 *
 *   gemm PRECISION MODEL THREADS      f32, bf16, q8, q4, q8-int8 or q4-int8; smollm2-135m or
 *                                     square-4096; 1, 2, ...
 *
 * q8 and q4 are unpacked and multiplied with rows of bf16; with -int8, the codes are multiplied
 * with those of rows of 8 bits.
 *
 * Method. The weights of a whole model lie one after the other, more than the caches hold, so that
 * each pass reads them from memory, as a step does. A pass multiplies all of them with M rows; the
 * panels of each matrix are split evenly over the threads, which do not wait for each other in
 * between. The same threads measure the floor in the same run: `read` reads these weights, `peak`
 * repeats the level's multiply-add on registers. They take turns (measure.h).
 *
 *   floor = the greater of bytes / read rate and operations / peak rate
 *   ratio = time / floor; 1 cannot be beaten but by noise
 *
 * Caveats. On a machine that is shared, the ratios mean something and the rates do not. Activations
 * are in the cache and results go to one tile, as in a step, but what a step does with them is
 * left out. The floor has neither the unpacking of q8 and q4, nor the scaling of their int8 forms,
 * which takes a third as many instructions again as the products do (with tiles: several times as
 * many).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bf16.h"
#include "floors.h"
#include "kernels.h"
#include "measure.h"

enum { NUM_REPEATS = 7, TILE_ROWS = 128, MAX_ROWS = 256, MAX_DEPTH = 4096 };

static const int32_t NUM_ROWS[] = {1, 4, 16, 32, 64, 256};
enum { NUM_ROW_COUNTS = sizeof NUM_ROWS / sizeof *NUM_ROWS };

/* ---- what there is to multiply ---- */

struct shape {
    int32_t depth;
    int32_t num_columns;
    int32_t num_layers;
};

enum { MAX_SHAPES = 4 };

struct model {
    const char *name;
    struct shape layers[MAX_SHAPES];
    struct shape head;
};

static const struct model MODELS[] = {
    {"smollm2-135m",
     {{576, 960, 30}, {576, 576, 30}, {576, 3072, 30}, {1536, 576, 30}},
     {576, 49152, 1}},
    {"square-4096", {{4096, 4096, 8}}, {0}},
};
enum { NUM_MODELS = sizeof MODELS / sizeof *MODELS };

struct precision {
    const char *name;
    enum weight_format layers;
    enum weight_format head;
    enum activation_format rows;
};

static const struct precision PRECISIONS[] = {
    {"f32", WEIGHTS_F32, WEIGHTS_F32, ACTIVATIONS_F32},
    {"bf16", WEIGHTS_BF16, WEIGHTS_BF16, ACTIVATIONS_BF16},
    {"q8", WEIGHTS_Q8, WEIGHTS_Q8, ACTIVATIONS_BF16},
    {"q4", WEIGHTS_Q4, WEIGHTS_Q8, ACTIVATIONS_BF16},
    {"q8-int8", WEIGHTS_Q8, WEIGHTS_Q8, ACTIVATIONS_Q8},
    {"q4-int8", WEIGHTS_Q4, WEIGHTS_Q8, ACTIVATIONS_Q8},
};
enum { NUM_PRECISIONS = sizeof PRECISIONS / sizeof *PRECISIONS };

enum { MAX_MATRICES = 128 };

struct bench {
    const struct precision *precision;
    const struct model *model;
    int num_threads;
    struct matrix matrices[MAX_MATRICES]; /* one after the other in memory */
    int num_matrices;
    size_t num_bytes;
    double num_weights;
    struct activations rows; /* MAX_ROWS rows of up to MAX_DEPTH values */
    bf16 *unpacked;          /* a panel for each thread */
    int32_t num_rows;        /* of the next pass */
    double num_operations;   /* of the next repetition of the multiply-add, on all threads */
};

/* ---- the data ---- */

static void add_matrices(struct bench *bench, const struct shape *shape, enum weight_format format)
{
    size_t panel_bytes = matrix_panel_bytes(format, shape->depth);
    for (int32_t i = 0; i < shape->num_layers; i++) {
        bench->matrices[bench->num_matrices++] =
            (struct matrix){format, shape->num_columns, shape->depth, NULL,
                            bench->precision->rows};
        bench->num_bytes += (size_t)matrix_num_panels(shape->num_columns) * panel_bytes;
        bench->num_weights += (double)shape->num_columns * shape->depth;
    }
}

static void fill_with_floats(float *values, size_t count, uint32_t *random)
{
    for (size_t i = 0; i < count; i++)
        values[i] = next_random_float(random);
}

static void fill_with_bf16(bf16 *values, size_t count, uint32_t *random)
{
    for (size_t i = 0; i < count; i++)
        values[i] = bf16_from_float(next_random_float(random));
}

/* Any bytes will do for codes; without bit 6 those of a scale are a finite float16 below 2. */
static void fill_with_bytes(uint8_t *bytes, size_t count, uint32_t *random)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(next_random(random) >> 24 & 0xbf);
}

static void fill_with_weights(void *memory, size_t num_bytes, enum weight_format format,
                              uint32_t *random)
{
    if (format == WEIGHTS_F32)
        fill_with_floats(memory, num_bytes / sizeof(float), random);
    else if (format == WEIGHTS_BF16)
        fill_with_bf16(memory, num_bytes / sizeof(bf16), random);
    else
        fill_with_bytes(memory, num_bytes, random);
}

static void fill_with_values(void *memory, size_t num_bytes, enum activation_format format,
                             uint32_t *random)
{
    if (format == ACTIVATIONS_F32)
        fill_with_floats(memory, num_bytes / sizeof(float), random);
    else if (format == ACTIVATIONS_BF16)
        fill_with_bf16(memory, num_bytes / sizeof(bf16), random);
    else
        fill_with_bytes(memory, num_bytes, random);
}

static void make_weights(struct bench *bench)
{
    uint32_t random = 1;
    for (int i = 0; i < MAX_SHAPES; i++)
        add_matrices(bench, &bench->model->layers[i], bench->precision->layers);
    add_matrices(bench, &bench->model->head, bench->precision->head);
    char *memory = allocate(bench->num_bytes);
    for (int i = 0; i < bench->num_matrices; i++) {
        struct matrix *matrix = &bench->matrices[i];
        size_t num_bytes = (size_t)matrix_num_panels(matrix->num_columns) *
                           matrix_panel_bytes(matrix->format, matrix->depth);
        fill_with_weights(memory, num_bytes, matrix->format, &random);
        matrix->panels = memory;
        memory += num_bytes;
    }
}

static void make_rows(struct bench *bench)
{
    const size_t num_values = (size_t)MAX_ROWS * MAX_DEPTH, num_groups = num_values / GROUP_SIZE;
    uint32_t random = 2;
    bench->rows.format = bench->precision->rows;
    bench->rows.values = allocate(num_values * sizeof(float));
    bench->rows.scales = allocate(num_groups * sizeof(float));
    bench->unpacked =
        allocate((size_t)bench->num_threads * PANEL_COLUMNS * MAX_DEPTH * sizeof(bf16));
    bench->rows.sums = allocate(num_groups * sizeof(float));
    fill_with_values(bench->rows.values, num_values * sizeof(float), bench->rows.format, &random);
    fill_with_floats(bench->rows.scales, num_groups, &random);
    fill_with_floats(bench->rows.sums, num_groups, &random);
}

/* ---- what is measured ---- */

static void read_weights(const void *context, int thread)
{
    const struct bench *bench = context;
    size_t share = bench->num_bytes / (size_t)bench->num_threads / 64 * 64;
    const char *weights = bench->matrices[0].panels;
    floor_read(weights + share * (size_t)thread, share);
}

static void compute(const void *context, int thread)
{
    const struct bench *bench = context;
    (void)thread;
    floor_compute(bench->precision->rows, bench->num_operations / bench->num_threads);
}

static void multiply_panel(const struct bench *bench, struct gemm *gemm)
{
    gemm_panel *multiply = KERNEL(kernel_ops).gemm[gemm->weights->format][gemm->rows->format];
    for (int32_t row = 0; row < bench->num_rows; row += TILE_ROWS) {
        int32_t rest = bench->num_rows - row;
        gemm->first_row = row;
        gemm->num_rows = rest < TILE_ROWS ? rest : TILE_ROWS;
        gemm->is_first = row == 0;
        gemm->is_last = rest <= TILE_ROWS;
        multiply(gemm);
    }
}

static void multiply(const struct bench *bench, const struct matrix *matrix, int thread)
{
    _Alignas(64) float out[TILE_ROWS * PANEL_COLUMNS];
    struct activations rows = bench->rows;
    rows.depth = matrix->depth;
    rows.stride = activations_stride(rows.format, rows.depth, bench->num_rows);
    struct gemm gemm = {
        .weights = matrix,
        .rows = &rows,
        .out = out,
        .out_stride = PANEL_COLUMNS,
        .unpacked = bench->unpacked + (size_t)thread * PANEL_COLUMNS * MAX_DEPTH,
    };
    int32_t num_panels = matrix_num_panels(matrix->num_columns);
    int32_t end_panel = num_panels * (thread + 1) / bench->num_threads;
    gemm.panel = num_panels * thread / bench->num_threads;
    for (; gemm.panel < end_panel; gemm.panel++)
        multiply_panel(bench, &gemm);
}

static void multiply_all(const void *context, int thread)
{
    const struct bench *bench = context;
    for (int i = 0; i < bench->num_matrices; i++)
        multiply(bench, &bench->matrices[i], thread);
}

struct times {
    double read_s;
    double compute_s;
    double multiply_s[NUM_ROW_COUNTS];
};

static void measure_in_turns(struct bench *bench, struct times *times)
{
    for (int i = 0; i < NUM_ROW_COUNTS; i++) {
        bench->num_rows = NUM_ROWS[i];
        measure(read_weights, bench, bench->num_threads, &times->read_s);
        measure(compute, bench, bench->num_threads, &times->compute_s);
        measure(multiply_all, bench, bench->num_threads, &times->multiply_s[i]);
    }
}

static void print_report(const struct bench *bench, const struct times *times)
{
    double num_bytes = (double)bench->num_bytes, peak = bench->num_operations / times->compute_s;
    printf("%s, %s, %s, %d threads: weights %.0f MB, read %.1f GB/s, peak %.0f GOP/s\n",
           level_name(), bench->precision->name, bench->model->name, bench->num_threads,
           num_bytes * 1e-6, num_bytes / times->read_s * 1e-9, peak * 1e-9);
    printf("%6s %9s %8s %9s %9s %6s\n", "rows", "ms", "GB/s", "GOP/s", "floor ms", "ratio");
    for (int i = 0; i < NUM_ROW_COUNTS; i++) {
        double operations = 2.0 * NUM_ROWS[i] * bench->num_weights, time_s = times->multiply_s[i];
        double peak_s = operations / peak;
        double floor_s = peak_s > times->read_s ? peak_s : times->read_s;
        printf("%6d %9.2f %8.1f %9.0f %9.2f %6.2f\n", NUM_ROWS[i], time_s * 1e3,
               num_bytes / time_s * 1e-9, operations / time_s * 1e-9, floor_s * 1e3,
               time_s / floor_s);
    }
}

static void run(struct bench *bench)
{
    struct times times = {1e9, 1e9, {1e9, 1e9, 1e9, 1e9, 1e9, 1e9}};
    bench->num_operations = 1e9 * bench->num_threads;
    for (int repeat = 0; repeat < NUM_REPEATS; repeat++)
        measure_in_turns(bench, &times);
    print_report(bench, &times);
}

/* ---- the command ---- */

static int usage(void)
{
    fprintf(stderr, "usage: gemm f32|bf16|q8|q4|q8-int8|q4-int8 smollm2-135m|square-4096 "
                    "THREADS (1 to %d)\n", MAX_THREADS);
    return 2;
}

int main(int num_arguments, char **arguments)
{
    static struct bench bench;
    if (num_arguments != 4)
        return usage();
    for (int i = 0; i < NUM_PRECISIONS; i++)
        if (strcmp(arguments[1], PRECISIONS[i].name) == 0)
            bench.precision = &PRECISIONS[i];
    for (int i = 0; i < NUM_MODELS; i++)
        if (strcmp(arguments[2], MODELS[i].name) == 0)
            bench.model = &MODELS[i];
    bench.num_threads = atoi(arguments[3]);
    if (bench.precision == NULL || bench.model == NULL || bench.num_threads < 1 ||
        bench.num_threads > MAX_THREADS)
        return usage();
    request_tiles();
    make_weights(&bench);
    make_rows(&bench);
    run(&bench);
    return 0;
}
