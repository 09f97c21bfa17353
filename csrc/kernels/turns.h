/* turns: a lock that is taken first come, first served, and held for milliseconds.
 *
 * A mutex goes to whoever asks at the right moment: a thread that gives it back and asks again at
 * once would keep it for ever. Here each caller draws a number and sleeps until that is called.
 */
#ifndef REALTIME_SERVE_TURNS_H
#define REALTIME_SERVE_TURNS_H

#include <pthread.h>
#include <stdint.h>

struct turns {
    pthread_mutex_t lock; /* guards the numbers; held for an instant */
    pthread_cond_t called;
    uint64_t next_number;
    uint64_t current_number;
};

/* Returns 0, or an errno value, and then there is nothing to destroy. */
int turns_init(struct turns *turns);

/* Nobody may have a turn or wait for one. */
void turns_destroy(struct turns *turns);

/* Waits for a turn, and ends it. The same thread does both. */
void turns_begin(struct turns *turns);
void turns_end(struct turns *turns);

#endif
