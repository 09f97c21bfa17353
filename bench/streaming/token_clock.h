/* token_clock: the text of every token that is measured here: the instant at which it was made.
 *
 * A token is six digits, the ticks of CLOCK_MONOTONIC modulo CLOCK_TICKS, so that each instant is an
 * entry of a vocabulary of ordinary size. All processes of a machine read the same clock, and a
 * client learns from the text how late the token came. token_clock.py says the same in Python.
 */
#ifndef TOKEN_CLOCK_H
#define TOKEN_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define TICK_NS 20000u

/* The clock comes round after 5 s: more than a first token takes to arrive, and more than one
 * token of a stream comes after the other. */
#define CLOCK_TICKS 250000u

#define TOKEN_DIGITS 6

/* A model that was kept from its steps for longer has lost them: it makes up for no more. */
#define MAX_BEHIND_NS 100000000u

static inline uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Whether the text begins with a token; an empty text or another does not. */
static inline bool token_parse(const char *text, const char *end, uint64_t *ticks)
{
    *ticks = 0;
    if (end - text < TOKEN_DIGITS)
        return false;
    for (int i = 0; i < TOKEN_DIGITS; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *ticks = 10 * *ticks + (uint64_t)(text[i] - '0');
    }
    return *ticks < CLOCK_TICKS;
}

static inline void token_write(char *text, uint64_t ticks)
{
    for (int i = TOKEN_DIGITS - 1; i >= 0; i--) {
        text[i] = (char)('0' + ticks % 10);
        ticks /= 10;
    }
}

#endif
