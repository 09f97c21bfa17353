/* measure: what the programs of this folder share: memory, threads and the time that work takes.
 *
 * A program measures a kernel and the floor beside it in turns, many times, and keeps the least
 * time of each, because other processes can only add to it. Time is CPU time, which does not run
 * while a thread waits for its turn on the CPU; of several threads, that of the slowest.
 */
#ifndef MEASURE_H
#define MEASURE_H

#include <stddef.h>
#include <stdint.h>

#define MAX_THREADS 64

/* The part of the work that thread 0 to num_threads - 1 does. */
typedef void measured_work(const void *context, int thread);

/* Runs the work once, on num_threads new threads, and lowers *least_s to the time that it took, if
 * that was less. */
void measure(measured_work *work, const void *context, int num_threads, double *least_s);

/* Whole pages of 2 MiB where the system has them, as in the product: with pages of 4 KiB, reading
 * takes a fifth longer. Never fails, because the program ends; never freed. */
void *allocate(size_t num_bytes);

/* The next of a row of numbers that look random and are the same in each run. */
uint32_t next_random(uint32_t *state);

/* The same, evenly from -1 to 1. */
float next_random_float(uint32_t *state);

/* Asks for the tile registers if this program's level has them. */
void request_tiles(void);

/* The name of the level that this program is compiled for. */
const char *level_name(void);

#endif
