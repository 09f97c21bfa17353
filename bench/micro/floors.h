/* floors: the rates that no product can exceed, measured where it runs.
 *
 * A program is compiled for one CPU level (csrc/kernels/level.h); the peaks are that level's.
 */
#ifndef FLOORS_H
#define FLOORS_H

#include <stddef.h>

#include "matrix.h"

/* Reads num_bytes, a multiple of 64, in order. The return value means nothing: without one the
 * compiler would leave the reading out. */
float floor_read(const void *memory, size_t num_bytes);

/* Repeats on registers the multiply-add that products of rows of this format use until there were
 * num_operations, a multiplication and an addition being two. The return value is as above. */
float floor_compute(enum activation_format format, double num_operations);

#endif
