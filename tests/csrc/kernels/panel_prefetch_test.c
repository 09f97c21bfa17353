/* How far a prefetch gets in a number of steps; the fetching itself changes nothing to be seen. */
#include "kernel_test.h"

#include "panel_prefetch.h"

#define MAX_LINES 40
#define MAX_STEPS 100

static char memory[(MAX_LINES + 1) * PREFETCH_LINE_BYTES];

/* Each step goes on by the same number of lines, or to the end. */
static void check_step(struct panel_prefetch *prefetch)
{
    const char *before = prefetch->next;
    panel_prefetch_advance(prefetch);
    CHECK(prefetch->next >= before && prefetch->next < prefetch->end + PREFETCH_LINE_BYTES);
    if (prefetch->next < prefetch->end)
        CHECK(prefetch->next == before + prefetch->lines_per_step * PREFETCH_LINE_BYTES);
}

/* Panels are whole lines. */
static void whole_lines_are_fetched_within_the_steps(size_t num_lines, size_t num_steps)
{
    size_t num_bytes = num_lines * PREFETCH_LINE_BYTES;
    struct panel_prefetch prefetch = panel_prefetch_over(memory, num_bytes, num_steps);
    CHECK(prefetch.next == memory && prefetch.end == memory + num_bytes);
    for (size_t step = 0; step < num_steps; step++)
        check_step(&prefetch);
    CHECK(prefetch.next == prefetch.end);
    panel_prefetch_advance(&prefetch);
    CHECK(prefetch.next == prefetch.end);
}

/* In as many steps as there are lines, or in as many as divide them, no step is idle. */
static void lines_are_spread_over_all_steps(size_t num_steps, int32_t lines_per_step)
{
    size_t num_bytes = num_steps * (size_t)lines_per_step * PREFETCH_LINE_BYTES;
    struct panel_prefetch prefetch = panel_prefetch_over(memory, num_bytes, num_steps);
    CHECK(prefetch.lines_per_step == lines_per_step);
    for (size_t step = 0; step < num_steps; step++) {
        CHECK(prefetch.next < prefetch.end);
        panel_prefetch_advance(&prefetch);
    }
    CHECK(prefetch.next == prefetch.end);
}

static void no_step_goes_a_line_past_the_end(size_t num_bytes, size_t num_steps)
{
    struct panel_prefetch prefetch = panel_prefetch_over(memory, num_bytes, num_steps);
    for (size_t step = 0; step < 2 * num_steps; step++)
        check_step(&prefetch);
}

static void nothing_is_fetched_where_there_is_nothing(void)
{
    struct panel_prefetch none = {0};
    struct panel_prefetch empty = panel_prefetch_over(memory, 0, 3);
    struct panel_prefetch ended = {.next = memory, .end = memory, .lines_per_step = 5};
    panel_prefetch_advance(NULL);
    for (int step = 0; step < 4; step++) {
        panel_prefetch_advance(&none);
        panel_prefetch_advance(&empty);
        panel_prefetch_advance(&ended);
    }
    CHECK(none.next == NULL && empty.next == memory && ended.next == memory);
}

int main(void)
{
    for (size_t num_steps = 1; num_steps <= MAX_STEPS; num_steps++) {
        for (size_t num_lines = 0; num_lines <= MAX_LINES; num_lines++)
            whole_lines_are_fetched_within_the_steps(num_lines, num_steps);
        for (size_t num_bytes = 0; num_bytes <= 5 * PREFETCH_LINE_BYTES; num_bytes++)
            no_step_goes_a_line_past_the_end(num_bytes, num_steps);
    }
    for (size_t num_steps = 1; num_steps <= 10; num_steps++)
        for (int32_t lines_per_step = 1; lines_per_step <= 4; lines_per_step++)
            lines_are_spread_over_all_steps(num_steps, lines_per_step);
    nothing_is_fetched_where_there_is_nothing();
    puts("panel_prefetch: ok");
    return 0;
}
