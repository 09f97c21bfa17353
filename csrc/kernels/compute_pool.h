/* compute_pool: a few threads that share the phases of a step.
 *
 * The thread that runs a step calls compute_pool_run for each phase: `work` gets each of the chunks
 * 0 to num_chunks - 1 once, some at a time, from the caller and from the helpers, in no order. It
 * returns when all chunks are done, not when all threads have arrived: a helper that the scheduler
 * took off its CPU delays those that it has taken in this phase, if any, and otherwise nothing.
 *
 *   range   of each member: consecutive chunks that it begins with, and from whose end the others
 *           take when they have finished theirs (chunk_range.h)
 *   done    chunks that helpers have finished
 *
 * A helper that finds nothing spins for some microseconds (the next phase is near), then sleeps on
 * a futex. If another process takes a helper's CPU, the caller lends it its own (guest.h), and a
 * helper that wakes on the caller's CPU leaves it: else one busy process would slow all threads to
 * less than the speed of one. Threads are moved for nothing else, and never pinned.
 *
 * There is one pool in a process. A step takes it whole: compute_pool_acquire waits, first come,
 * first served, while another thread's step has it.
 *
 * Nothing here knows Python. Threads do not survive fork(): a child makes its own pool. All that it
 * may do with its parent's is to free it, which gives back the memory and waits for nobody.
 */
#ifndef REALTIME_SERVE_COMPUTE_POOL_H
#define REALTIME_SERVE_COMPUTE_POOL_H

#include <stdint.h>

#include "chunk_range.h"

struct compute_pool;

/* `member` is 0 for the caller of compute_pool_run and 1 to num_threads - 1 for the helpers: an
 * index of scratch memory. */
typedef void compute_work(void *context, struct chunks chunks, int32_t member);

/* A pool of num_threads threads, at least 1, the caller's included; starts num_threads - 1 helpers,
 * with all signals blocked. NULL, with errno set, if memory or threads are missing. More threads
 * than the process has CPUs make phases slower. */
struct compute_pool *compute_pool_new(int32_t num_threads);

/* Stops the helpers, joins them and frees the pool. Nobody may be in a step. NULL is allowed. */
void compute_pool_free(struct compute_pool *pool);

int32_t compute_pool_num_threads(const struct compute_pool *pool);

/* How many of them take part in a phase of so many chunks; the holder's. */
int32_t compute_pool_num_members(const struct compute_pool *pool, int32_t num_chunks);

/* Take the pool for a step, and give it back. */
void compute_pool_acquire(struct compute_pool *pool);
void compute_pool_release(struct compute_pool *pool);

/* How many threads the next phases use, 1 to num_threads; the holder's choice, until release. */
void compute_pool_limit(struct compute_pool *pool, int32_t num_threads);

/* Run one phase, of at most CHUNK_RANGE_MAX chunks; only the holder calls. What `work` wrote is
 * visible to the caller afterwards, and what the caller wrote before is visible to `work`. */
void compute_pool_run(struct compute_pool *pool, compute_work *work, void *context,
                      int32_t num_chunks);

#endif
