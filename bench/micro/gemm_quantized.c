/* gemm_quantized: the matrix products of one step with 4-bit and 8-bit weights, beside the floor
 * that memory and arithmetic set.
 *
 *   gemm_quantized THREADS
 *
 * Method. That of gemm.c, with the weights of SmolLM2-135M in two ways: `q4` has layers of 4 bits
 * and a head of 8, `q8` has 8 bits everywhere. Both are measured in turns, with what sets their
 * floors: `read` reads the same weights, `peak` repeats the level's product of bytes on registers.
 * Times are CPU times of the slowest thread: while others have the CPU, the clock stands.
 *
 *   floor = the greater of bytes / read rate and operations / peak rate
 *   ratio = time / floor
 *
 * Caveats. Those of gemm.c. The scales of a group take at least a third as many instructions
 * again as its products do (with tiles: several times as many), and are not in the floor: once
 * arithmetic sets it, a ratio near 1 cannot be had.
 */
#define _GNU_SOURCE 1 /* madvise, syscall */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "amx.h"
#include "floors.h"
#include "kernels.h"
#include "vec_dot.h"

#define TEXT_OF_EXPANDED(name) #name
#define TEXT_OF(name) TEXT_OF_EXPANDED(name)

enum { NUM_REPEATS = 9, TILE_ROWS = 32, MAX_ROWS = 256, MAX_THREADS = 64, MAX_DEPTH = 1536 };

static const int32_t NUM_ROWS[] = {1, 4, 16, 32, 64, 256};
enum { NUM_ROW_COUNTS = sizeof NUM_ROWS / sizeof NUM_ROWS[0] };

/* ---- the model ---- */

struct layer_shape {
    int32_t depth;
    int32_t num_columns;
    int32_t num_layers;
};

/* SmolLM2-135M's; the head comes last. */
static const struct layer_shape SHAPES[] = {
    {576, 960, 30}, {576, 576, 30}, {576, 3072, 30}, {1536, 576, 30}, {576, 49152, 1}};
enum { NUM_SHAPES = sizeof SHAPES / sizeof SHAPES[0], HEAD = NUM_SHAPES - 1 };

struct model {
    const char *name;
    enum weight_format layers;
    size_t num_bytes;
    void *weights;
};

static enum weight_format format_of(const struct model *model, int shape)
{
    return shape == HEAD ? WEIGHTS_Q8 : model->layers;
}

static size_t matrix_bytes(const struct model *model, int shape)
{
    return (size_t)matrix_num_panels(SHAPES[shape].num_columns) *
           matrix_panel_bytes(format_of(model, shape), SHAPES[shape].depth);
}

/* ---- the data ---- */

/* Large pages, as the product asks for them: without them, page walks add to what is measured. */
static void *allocate(size_t bytes)
{
    const size_t page = (size_t)2 << 20;
    size_t size = (bytes + page - 1) / page * page;
    void *memory = aligned_alloc(page, size);
    if (memory == NULL) {
        perror("aligned_alloc");
        exit(1);
    }
    madvise(memory, size, MADV_HUGEPAGE);
    return memory;
}

static uint32_t next_random(uint32_t *state)
{
    return *state = *state * 1664525u + 1013904223u;
}

/* Any bytes will do for codes; read as float16, these are numbers of no unusual kind. */
static void *allocate_weights(size_t bytes)
{
    uint8_t *memory = allocate(bytes);
    uint32_t state = 1;
    for (size_t i = 0; i < bytes; i++)
        memory[i] = (uint8_t)(next_random(&state) >> 24 & 0xbf);
    return memory;
}

static void model_init(struct model *model)
{
    model->num_bytes = 0;
    for (int i = 0; i < NUM_SHAPES; i++)
        model->num_bytes += (size_t)SHAPES[i].num_layers * matrix_bytes(model, i);
    model->weights = allocate_weights(model->num_bytes);
}

static struct activations new_activations(void)
{
    struct activations rows = {.format = ACTIVATIONS_Q8};
    uint32_t state = 1;
    size_t num_scales = (size_t)MAX_ROWS * MAX_DEPTH / GROUP_SIZE;
    rows.values = allocate((size_t)MAX_ROWS * MAX_DEPTH);
    rows.scales = allocate(num_scales * sizeof(float));
    rows.sums = allocate(num_scales * sizeof(float));
    for (size_t i = 0; i < (size_t)MAX_ROWS * MAX_DEPTH; i++)
        ((int8_t *)rows.values)[i] = (int8_t)(next_random(&state) % 255 - 127);
    for (size_t i = 0; i < num_scales; i++) {
        rows.scales[i] = (float)next_random(&state) * 0x1p-32f;
        rows.sums[i] = rows.scales[i] * (float)(int32_t)next_random(&state) * 0x1p-24f;
    }
    return rows;
}

/* ---- what is measured ---- */

struct task {
    const struct model *model;
    const struct activations *activations;
    int32_t num_rows;
    double num_operations;
    int thread;
    int num_threads;
};

typedef void work(const struct task *task);

static volatile float result; /* what nobody needs, but the compiler must think so */

static void read_weights(const struct task *task)
{
    size_t share = task->model->num_bytes / (size_t)task->num_threads / 256 * 256;
    result = floor_read((const char *)task->model->weights + share * (size_t)task->thread, share);
}

#if defined(__AMX_INT8__)

static void compute(const struct task *task)
{
    static const uint8_t FULL_TILES[AMX_NUM_TILES] = {16, 16, 16, 16, 16, 16, 16, 16};
    amx_configure(FULL_TILES);
    for (double done = 0; done < task->num_operations; done += 4 * 2 * 16 * 16 * 64) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
}

#else

/* Enough sums for two instructions of a latency of five in each cycle. */
enum { NUM_SUMS = 12 };

/* Four products of bytes a lane. */
KERNEL_INLINE vec_i32 add_products(vec_i32 sum, vec_i32 factor)
{
#if defined(__AVX512VNNI__)
    return vec_dot4(sum, factor, factor);
#else
    return (vec_i32)((vec_i16)sum + vec_dot2_bytes(factor, sum));
#endif
}

static void compute(const struct task *task)
{
    const double num_products = (double)(NUM_SUMS * sizeof(vec_i32));
    vec_i32 sums[NUM_SUMS] = {{0}};
    vec_i32 factor = 0x01010101 - (vec_i32){0};
    for (double done = 0; done < task->num_operations; done += 2 * num_products)
        for (int i = 0; i < NUM_SUMS; i++)
            sums[i] = add_products(sums[i], factor);
    for (int i = 1; i < NUM_SUMS; i++)
        sums[0] += sums[i];
    result = (float)sums[0][0];
}

#endif

static void multiply(const struct task *task, const struct matrix *matrix)
{
    _Alignas(64) float out[TILE_ROWS * PANEL_COLUMNS];
    gemm_panel *gemm = matrix->format == WEIGHTS_Q8 ? KERNEL(gemm_q8) : KERNEL(gemm_q4);
    struct activations rows = *task->activations;
    rows.depth = matrix->depth;
    int32_t num_panels = matrix_num_panels(matrix->num_columns);
    int32_t first_panel = num_panels * task->thread / task->num_threads;
    int32_t end_panel = num_panels * (task->thread + 1) / task->num_threads;
    for (int32_t panel = first_panel; panel < end_panel; panel++)
        for (int32_t row = 0; row < task->num_rows; row += TILE_ROWS) {
            int32_t num_rows = task->num_rows - row < TILE_ROWS ? task->num_rows - row : TILE_ROWS;
            gemm(matrix, panel, &rows, row, num_rows, out, PANEL_COLUMNS);
        }
    result = out[0];
}

static void multiply_all(const struct task *task)
{
    const char *weights = task->model->weights;
    for (int i = 0; i < NUM_SHAPES; i++)
        for (int32_t layer = 0; layer < SHAPES[i].num_layers; layer++) {
            struct matrix matrix = {format_of(task->model, i), SHAPES[i].num_columns,
                                    SHAPES[i].depth, weights};
            multiply(task, &matrix);
            weights += matrix_bytes(task->model, i);
        }
}

/* ---- measuring ---- */

struct started {
    pthread_t thread;
    work *work;
    struct task task;
    double time_s;
};

static double thread_time_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *run_started(void *argument)
{
    struct started *started = argument;
    double start_s = thread_time_s();
    started->work(&started->task);
    started->time_s = thread_time_s() - start_s;
    return NULL;
}

/* Lowers *least_s to the time of the slowest thread, if that was less. */
static void measure(work *work, struct task task, double *least_s)
{
    struct started started[MAX_THREADS];
    double slowest_s = 0.0;
    for (int i = 0; i < task.num_threads; i++) {
        started[i] = (struct started){.work = work, .task = task};
        started[i].task.thread = i;
        if (pthread_create(&started[i].thread, NULL, run_started, &started[i]) != 0) {
            perror("pthread_create");
            exit(1);
        }
    }
    for (int i = 0; i < task.num_threads; i++) {
        pthread_join(started[i].thread, NULL);
        slowest_s = started[i].time_s > slowest_s ? started[i].time_s : slowest_s;
    }
    *least_s = slowest_s < *least_s ? slowest_s : *least_s;
}

struct times {
    double read_s;
    double compute_s;
    double products_s[NUM_ROW_COUNTS];
};

static void print_report(const struct task *task, const struct times *times)
{
    double num_weights = 0;
    for (int i = 0; i < NUM_SHAPES; i++)
        num_weights +=
            (double)SHAPES[i].depth * SHAPES[i].num_columns * (double)SHAPES[i].num_layers;
    double num_bytes = (double)task->model->num_bytes;
    double peak = task->num_operations * task->num_threads / times->compute_s;
    printf("%s, %s, %d threads: weights %.0f MB, read %.1f GB/s, peak %.0f GOP/s\n",
           TEXT_OF(KERNEL_LEVEL), task->model->name, task->num_threads, num_bytes * 1e-6,
           num_bytes / times->read_s * 1e-9, peak * 1e-9);
    printf("%6s %9s %8s %9s %9s %6s\n", "rows", "ms", "GB/s", "GOP/s", "floor ms", "ratio");
    for (int i = 0; i < NUM_ROW_COUNTS; i++) {
        double operations = 2.0 * NUM_ROWS[i] * num_weights, time_s = times->products_s[i];
        double compute_s = operations / peak;
        double floor_s = compute_s > times->read_s ? compute_s : times->read_s;
        printf("%6d %9.2f %8.1f %9.0f %9.2f %6.2f\n", NUM_ROWS[i], time_s * 1e3,
               num_bytes / time_s * 1e-9, operations / time_s * 1e-9, floor_s * 1e3,
               time_s / floor_s);
    }
}

static void measure_all(struct task task, struct times *times)
{
    for (int i = 0; i < NUM_ROW_COUNTS; i++) {
        task.num_rows = NUM_ROWS[i];
        measure(read_weights, task, &times->read_s);
        measure(compute, task, &times->compute_s);
        measure(multiply_all, task, &times->products_s[i]);
    }
}

/* ---- the command ---- */

static void request_amx(void)
{
#if defined(__AMX_TILE__)
    enum { ARCH_REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    if (syscall(SYS_arch_prctl, ARCH_REQUEST_PERMISSION, TILE_DATA) != 0) {
        perror("arch_prctl");
        exit(1);
    }
#endif
}

int main(int num_arguments, char **arguments)
{
    struct model models[] = {{.name = "q4", .layers = WEIGHTS_Q4},
                             {.name = "q8", .layers = WEIGHTS_Q8}};
    enum { NUM_MODELS = sizeof models / sizeof models[0] };
    int num_threads = num_arguments == 2 ? atoi(arguments[1]) : 0;
    if (num_threads < 1 || num_threads > MAX_THREADS) {
        fprintf(stderr, "usage: gemm_quantized THREADS (1 to %d)\n", MAX_THREADS);
        return 2;
    }
    request_amx();
    struct activations activations = new_activations();
    struct times times[NUM_MODELS];
    struct task tasks[NUM_MODELS];
    for (int i = 0; i < NUM_MODELS; i++) {
        model_init(&models[i]);
        tasks[i] = (struct task){.model = &models[i], .activations = &activations,
                                 .num_operations = 1e9, .num_threads = num_threads};
        times[i] = (struct times){1e9, 1e9, {0}};
        for (int j = 0; j < NUM_ROW_COUNTS; j++)
            times[i].products_s[j] = 1e9;
    }
    for (int repeat = 0; repeat < NUM_REPEATS; repeat++)
        for (int i = 0; i < NUM_MODELS; i++)
            measure_all(tasks[i], &times[i]);
    for (int i = 0; i < NUM_MODELS; i++)
        print_report(&tasks[i], &times[i]);
    return 0;
}
