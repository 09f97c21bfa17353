/* attention: the attention of one step, beside the floor that memory and arithmetic set.
 *
 *   attention FORMAT THREADS      f32, bf16 or int8; 1, 2, ...
 *
 * Method. The cache of SmolLM2-135M for 64 sequences of 512 tokens, far more than the CPU's caches
 * hold. `decode` is a step with one row for each sequence, which reads all of it once; its floor is
 * reading the same memory in order. `prefill` is the 512 rows of one sequence; its floor is the
 * products with the tokens that each row sees, at the speed of the level's multiply-add on
 * registers. Heads and tiles are dealt out to the threads, which do not wait for each other in
 * between; what counts is the CPU time of the slowest. The measurements take turns, and the least
 * time of each is kept, because other processes can only add to it.
 *
 * Caveats. Those of gemm.c. A sequence's blocks are consecutive, which the allocator of blocks
 * strives for. The softmax is not in the floor of `prefill`; with tiles it takes as long as the
 * products.
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

#include "bf16.h"
#include "floors.h"
#include "kernels.h"

#define TEXT_OF_EXPANDED(name) #name
#define TEXT_OF(name) TEXT_OF_EXPANDED(name)

enum {
    NUM_REPEATS = 9,
    MAX_THREADS = 64,
    NUM_LAYERS = 30,
    NUM_KV_HEADS = 3,
    GROUP = 3,
    HEAD_DIM = 64,
    ROW_WIDTH = NUM_KV_HEADS * GROUP * HEAD_DIM,
    NUM_SEQUENCES = 64,
    NUM_TOKENS = 512,
    SEQUENCE_BLOCKS = NUM_TOKENS / KV_BLOCK_TOKENS,
    NUM_BLOCKS = NUM_SEQUENCES * SEQUENCE_BLOCKS,
};

/* ---- the data ---- */

struct format {
    const char *name;
    enum kv_format cache;
    enum weight_format products; /* with the same floor; for int8, whose queries and weights have
                                  * 16 bits, that of bf16 */
};

static const struct format formats[] = {
    {"f32", KV_F32, WEIGHTS_F32},
    {"bf16", KV_BF16, WEIGHTS_BF16},
    {"int8", KV_INT8, WEIGHTS_BF16},
};

struct bench {
    const struct format *format;
    int num_threads;
    struct kv_cache cache;
    int32_t block_table[NUM_BLOCKS]; /* sequence after sequence */
    float *queries;                  /* NUM_TOKENS rows */
    float *out;
};

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

/* Evenly from -1 to 1. */
static float next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-31f;
}

static void fill_int8(char *block, uint32_t *state)
{
    const size_t block_bytes = kv_block_bytes(KV_INT8, HEAD_DIM);
    for (int i = 0; i < KV_BLOCK_TOKENS; i++)
        ((float *)block)[i] = 1.0f / KV_GREATEST_CODE;
    for (size_t i = KV_SCALES_BYTES; i < block_bytes; i++)
        block[i] = (char)(next_random(state) * KV_GREATEST_CODE);
}

static void *allocate_random(enum kv_format format, size_t bytes)
{
    void *memory = allocate(bytes);
    uint32_t state = 1;
    if (format == KV_F32)
        for (size_t i = 0; i < bytes / sizeof(float); i++)
            ((float *)memory)[i] = next_random(&state);
    else if (format == KV_BF16)
        for (size_t i = 0; i < bytes / sizeof(bf16); i++)
            ((bf16 *)memory)[i] = bf16_from_float(next_random(&state));
    else
        for (size_t i = 0; i < bytes; i += kv_block_bytes(format, HEAD_DIM))
            fill_int8((char *)memory + i, &state);
    return memory;
}

static void bench_init(struct bench *bench)
{
    const enum kv_format format = bench->format->cache;
    const size_t row_bytes = ROW_WIDTH * sizeof(float);
    bench->cache = (struct kv_cache){.format = format, .num_layers = NUM_LAYERS,
                                     .num_heads = NUM_KV_HEADS, .head_dim = HEAD_DIM,
                                     .num_blocks = NUM_BLOCKS};
    bench->cache.keys = allocate_random(format, kv_cache_bytes(&bench->cache));
    bench->cache.values = allocate_random(format, kv_cache_bytes(&bench->cache));
    bench->queries = allocate_random(KV_F32, NUM_TOKENS * row_bytes);
    bench->out = allocate(NUM_TOKENS * row_bytes);
    for (int32_t i = 0; i < NUM_BLOCKS; i++)
        bench->block_table[i] = i;
}

/* ---- what is measured ---- */

struct task {
    const struct bench *bench;
    double num_operations;
    int thread;
    void *scratch;
};

typedef void work(const struct task *task);

static volatile float result; /* what nobody needs, but the compiler must think so */

static void read_cache(const struct task *task)
{
    const struct kv_cache *cache = &task->bench->cache;
    size_t share = kv_cache_bytes(cache) / (size_t)task->bench->num_threads / 256 * 256;
    size_t first = share * (size_t)task->thread;
    result = floor_read((const char *)cache->keys + first, share);
    result = floor_read((const char *)cache->values + first, share);
}

static void compute(const struct task *task)
{
    const struct bench *bench = task->bench;
    result = floor_compute(bench->format->products, task->num_operations / bench->num_threads);
}

/* `row` of the queries is the first row of the tile. */
static void attend(const struct task *task, struct attention_tile tile, int32_t row)
{
    size_t first = (size_t)row * ROW_WIDTH + (size_t)tile.kv_head * GROUP * HEAD_DIM;
    tile.group = GROUP;
    tile.queries = task->bench->queries + first;
    tile.out = task->bench->out + first;
    tile.row_stride = ROW_WIDTH;
    const struct kv_cache *cache = &task->bench->cache;
    KERNEL(kernel_ops).attend[cache->format](cache, &tile, task->scratch);
}

static void decode_row(const struct task *task, int32_t layer, int32_t kv_head, int32_t sequence)
{
    struct attention_tile tile = {
        .layer = layer,
        .kv_head = kv_head,
        .first_position = NUM_TOKENS - 1,
        .num_rows = 1,
        .block_table = task->bench->block_table + sequence * SEQUENCE_BLOCKS,
    };
    attend(task, tile, sequence);
}

static void decode(const struct task *task)
{
    for (int32_t layer = 0; layer < NUM_LAYERS; layer++)
        for (int32_t kv_head = 0; kv_head < NUM_KV_HEADS; kv_head++)
            for (int32_t i = task->thread; i < NUM_SEQUENCES; i += task->bench->num_threads)
                decode_row(task, layer, kv_head, i);
}

static void prefill_rows(const struct task *task, int32_t layer, int32_t kv_head, int32_t row)
{
    int32_t max_rows = ATTENTION_MAX_ROWS(GROUP);
    struct attention_tile tile = {
        .layer = layer,
        .kv_head = kv_head,
        .first_position = row,
        .num_rows = NUM_TOKENS - row < max_rows ? NUM_TOKENS - row : max_rows,
        .block_table = task->bench->block_table,
    };
    attend(task, tile, row);
}

static void prefill(const struct task *task)
{
    int32_t max_rows = ATTENTION_MAX_ROWS(GROUP);
    for (int32_t layer = 0; layer < NUM_LAYERS; layer++)
        for (int32_t kv_head = 0; kv_head < NUM_KV_HEADS; kv_head++)
            for (int32_t row = task->thread * max_rows; row < NUM_TOKENS;
                 row += task->bench->num_threads * max_rows)
                prefill_rows(task, layer, kv_head, row);
}

/* Of the two products, with the tokens that the rows of a sequence see. */
static double prefill_operations(void)
{
    double num_seen = NUM_TOKENS * (NUM_TOKENS + 1) / 2.0;
    return 4.0 * num_seen * ROW_WIDTH * NUM_LAYERS;
}

/* ---- measuring ---- */

struct started {
    pthread_t thread;
    work *work;
    struct task task;
    double time_s;
};

/* What the calling thread has computed, not waited for its turn on a CPU. */
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
static void measure(work *work, const struct task *tasks, double *least_s)
{
    struct started started[MAX_THREADS];
    int num_threads = tasks->bench->num_threads;
    double slowest_s = 0;
    for (int i = 0; i < num_threads; i++) {
        started[i] = (struct started){.work = work, .task = tasks[i]};
        if (pthread_create(&started[i].thread, NULL, run_started, &started[i]) != 0) {
            perror("pthread_create");
            exit(1);
        }
    }
    for (int i = 0; i < num_threads; i++) {
        pthread_join(started[i].thread, NULL);
        slowest_s = started[i].time_s > slowest_s ? started[i].time_s : slowest_s;
    }
    *least_s = slowest_s < *least_s ? slowest_s : *least_s;
}

static void run(const struct bench *bench)
{
    struct task tasks[MAX_THREADS];
    double read_s = 1e9, compute_s = 1e9, decode_s = 1e9, prefill_s = 1e9;
    for (int i = 0; i < bench->num_threads; i++) {
        void *scratch = allocate(attention_scratch_bytes(GROUP, HEAD_DIM));
        tasks[i] = (struct task){bench, prefill_operations(), i, scratch};
    }
    for (int repeat = 0; repeat < NUM_REPEATS; repeat++) {
        measure(read_cache, tasks, &read_s);
        measure(decode, tasks, &decode_s);
        measure(compute, tasks, &compute_s);
        measure(prefill, tasks, &prefill_s);
    }
    double num_bytes = 2.0 * (double)kv_cache_bytes(&bench->cache);
    printf("%8s %9s %9s %6s\n", "", "ms", "floor ms", "ratio");
    printf("%8s %9.2f %9.2f %6.2f   %.1f of %.1f GB/s\n", "decode", decode_s * 1e3, read_s * 1e3,
           decode_s / read_s, num_bytes / decode_s * 1e-9, num_bytes / read_s * 1e-9);
    printf("%8s %9.2f %9.2f %6.2f   %.0f of %.0f GFLOP/s\n", "prefill", prefill_s * 1e3,
           compute_s * 1e3, prefill_s / compute_s, prefill_operations() / prefill_s * 1e-9,
           prefill_operations() / compute_s * 1e-9);
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

static int usage(void)
{
    fprintf(stderr, "usage: attention f32|bf16|int8 THREADS (1 to %d)\n", MAX_THREADS);
    return 2;
}

static const struct format *find_format(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

int main(int num_arguments, char **arguments)
{
    static struct bench bench;
    if (num_arguments != 3)
        return usage();
    bench.format = find_format(arguments[1]);
    bench.num_threads = atoi(arguments[2]);
    if (bench.format == NULL || bench.num_threads < 1 || bench.num_threads > MAX_THREADS)
        return usage();
    request_amx();
    bench_init(&bench);
    printf("%s, %s, %d threads\n", TEXT_OF(KERNEL_LEVEL), arguments[1], bench.num_threads);
    run(&bench);
    return 0;
}
