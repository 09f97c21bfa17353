/* sampler: choosing the tokens of one step, beside the floor of reading its logits.
 *
 *   sampler        no arguments
 *
 * Method. One thread, and 64 rows of 49,152 logits, as a step of SmolLM2-135M leaves them: 12.6 MB,
 * more than the caches of a core hold. The floor is reading them in order once. A few hundred
 * tokens of each row stand above normal noise and fall off as a power of their rank, from 1 to 4
 * in turn: top_p 0.95 then keeps from one to hundreds of tokens, as it does for a language model's
 * text. `flat` rows are noise only, of which top_p keeps most. A task and the floor take turns,
 * and the least CPU time of each is kept.
 *
 * Caveats. Those of measure.h: on a machine that is shared the ratios mean something, the times do
 * not. In a step the logits come out of a product and may still be in the caches. Draws differ
 * from one repeat to the next; how long they take hardly does.
 */
#include <math.h>
#include <stdio.h>

#include "floors.h"
#include "kernels.h"
#include "measure.h"

enum { VOCAB = 49152, NUM_ROWS = 64, NUM_WORDS = VOCAB / 32, NUM_PEAKS = 300, NUM_REPEATS = 15 };

/* ---- the data ---- */

enum logits { PEAKED, FLAT, EQUAL, NUM_LOGITS };

static float next_normal(uint32_t *state)
{
    float sum = 0;
    for (int i = 0; i < 12; i++)
        sum += next_random_float(state);
    return sum / 2;
}

static void fill_row(float *row, enum logits logits, float power, uint32_t *state)
{
    float spread = logits == PEAKED ? 2.5f : logits == FLAT ? 1 : 0;
    for (int32_t i = 0; i < VOCAB; i++)
        row[i] = spread * next_normal(state);
    if (logits == PEAKED)
        for (int32_t rank = 1; rank <= NUM_PEAKS; rank++)
            row[next_random(state) % VOCAB] = 18 - power * logf((float)rank);
}

static float *allocate_logits(enum logits logits)
{
    float *rows = allocate(sizeof(float) * VOCAB * NUM_ROWS);
    uint32_t state = 1;
    for (int32_t i = 0; i < NUM_ROWS; i++)
        fill_row(rows + (size_t)i * VOCAB, logits, 1 + (float)(i % 4), &state);
    return rows;
}

/* ---- what is measured ---- */

struct task {
    const char *name;
    enum logits logits;
    struct sampling sampling;
    float *rows;
    void *scratch;
    double least_s;
};

static uint32_t mask[NUM_WORDS];

static struct task tasks[] = {
    {"greedy", PEAKED, {.top_p = 1}, NULL, NULL, 1e9},
    {"temperature 1", PEAKED, {.temperature = 1, .top_p = 1}, NULL, NULL, 1e9},
    {"temperature 0.7", PEAKED, {.temperature = 0.7f, .top_p = 1}, NULL, NULL, 1e9},
    {"top_p 0.95", PEAKED, {.temperature = 1, .top_p = 0.95f}, NULL, NULL, 1e9},
    {"temperature 0.7, top_p 0.95", PEAKED, {.temperature = 0.7f, .top_p = 0.95f}, NULL, NULL, 1e9},
    {"top_k 40", PEAKED, {.temperature = 1, .top_p = 1, .top_k = 40}, NULL, NULL, 1e9},
    {"temperature 0.7, top_k 40, top_p 0.95", PEAKED,
     {.temperature = 0.7f, .top_p = 0.95f, .top_k = 40}, NULL, NULL, 1e9},
    {"min_p 0.05", PEAKED, {.temperature = 1, .top_p = 1, .min_p = 0.05f}, NULL, NULL, 1e9},
    {"flat, top_p 0.95", FLAT, {.temperature = 1, .top_p = 0.95f}, NULL, NULL, 1e9},
    {"flat, top_p 0.5", FLAT, {.temperature = 1, .top_p = 0.5f}, NULL, NULL, 1e9},
    {"flat, top_k 20000", FLAT, {.temperature = 1, .top_p = 1, .top_k = 20000}, NULL, NULL, 1e9},
    {"all equal, top_p 0.95", EQUAL, {.temperature = 1, .top_p = 0.95f}, NULL, NULL, 1e9},
    {"greedy, half of the tokens masked", EQUAL, {.top_p = 1, .allowed = mask}, NULL, NULL, 1e9},
};
enum { NUM_TASKS = sizeof tasks / sizeof tasks[0] };

static volatile float result; /* what nobody needs, but the compiler must think so */

static void read_rows(const void *context, int thread)
{
    const struct task *task = context;
    (void)thread;
    result = floor_read(task->rows, sizeof(float) * VOCAB * NUM_ROWS);
}

static void sample_rows(const void *context, int thread)
{
    const struct task *task = context;
    struct sampling sampling = task->sampling;
    (void)thread;
    for (int32_t i = 0; i < NUM_ROWS; i++) {
        sampling.seed = (uint64_t)i;
        sampling.output_index++;
        float *row = task->rows + (size_t)i * VOCAB;
        result = KERNEL(sample)(row, VOCAB, &sampling, task->scratch).logprob;
    }
}

static void init_tasks(void)
{
    float *rows[NUM_LOGITS];
    void *scratch = allocate(sampler_scratch_bytes(VOCAB));
    uint32_t state = 1;
    for (int i = 0; i < NUM_WORDS; i++)
        mask[i] = next_random(&state);
    for (int i = 0; i < NUM_LOGITS; i++)
        rows[i] = allocate_logits((enum logits)i);
    for (int i = 0; i < NUM_TASKS; i++) {
        tasks[i].rows = rows[tasks[i].logits];
        tasks[i].scratch = scratch;
    }
}

static void print_report(double floor_s)
{
    const double per_row_us = 1e6 / NUM_ROWS;
    printf("%s, %d rows of %d logits: read %.1f GB/s\n", level_name(), NUM_ROWS, VOCAB,
           sizeof(float) * VOCAB * NUM_ROWS / floor_s * 1e-9);
    printf("%-38s %10s %10s %6s\n", "", "us a row", "floor us", "ratio");
    for (int i = 0; i < NUM_TASKS; i++)
        printf("%-38s %10.1f %10.1f %6.2f\n", tasks[i].name, tasks[i].least_s * per_row_us,
               floor_s * per_row_us, tasks[i].least_s / floor_s);
}

int main(void)
{
    double floor_s = 1e9;
    init_tasks();
    for (int i = 0; i < NUM_TASKS; i++)
        for (int repeat = 0; repeat < NUM_REPEATS; repeat++) {
            tasks[i].sampling.output_index = (uint64_t)repeat * NUM_ROWS;
            measure(read_rows, &tasks[i], 1, &floor_s);
            measure(sample_rows, &tasks[i], 1, &tasks[i].least_s);
        }
    print_report(floor_s);
    return 0;
}
