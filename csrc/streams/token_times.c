#include "streams/token_times.h"

const double token_times_bounds_s[TOKEN_TIMES_NUM_BOUNDS] = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05,
    0.075,  0.1,     0.15,   0.2,   0.3,    0.4,   0.5,    0.75, 1.0,   2.5,  5.0,  10.0,
};

static size_t bucket_of(double gap_s)
{
    size_t bucket = 0;
    while (bucket < TOKEN_TIMES_NUM_BOUNDS && token_times_bounds_s[bucket] < gap_s)
        bucket++;
    return bucket;
}

void token_times_note(token_times *times, size_t num_tokens, double now_s)
{
    if (times->num_tokens == 0) {
        times->first_at_s = now_s;
    } else {
        double gap_s = now_s - times->last_at_s;
        times->gap_sum_s += gap_s;
        times->gap_counts[bucket_of(gap_s)]++;
    }
    times->gap_counts[0] += num_tokens - 1;
    times->num_tokens += num_tokens;
    times->last_at_s = now_s;
}
