/* token_times: when the tokens of one stream came, and how far apart.
 *
 * Tokens that become visible together share an instant: the first of them has a gap to the token
 * before it, the others have none. One thread at a time. */
#ifndef REALTIME_SERVE_TOKEN_TIMES_H
#define REALTIME_SERVE_TOKEN_TIMES_H

#include <stddef.h>
#include <stdint.h>

#define TOKEN_TIMES_NUM_BOUNDS 25

/* Upper bounds of the gaps' histogram, ascending: fine from 0.1 ms, where small models live. */
extern const double token_times_bounds_s[TOKEN_TIMES_NUM_BOUNDS];

/* Zeroed at first. The instants mean something once there are tokens. */
typedef struct token_times {
    uint64_t num_tokens;
    double first_at_s;
    double last_at_s;
    double gap_sum_s;
    uint64_t gap_counts[TOKEN_TIMES_NUM_BOUNDS + 1]; /* the last one is above all bounds */
} token_times;

/* Counts tokens, at least one, that became visible together. */
void token_times_note(token_times *times, size_t num_tokens, double now_s);

#endif
