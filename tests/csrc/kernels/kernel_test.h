/* What the kernel tests share: numbers that look random, comparisons that say what they found, and
 * memory whose surroundings are watched.
 *
 * A program is compiled once for each CPU level and calls the kernels of that level by KERNEL(name).
 * It ends with 0 and a line on stdout, or with the check that failed on stderr. This header comes
 * before all others, because it asks the C library for more than the C standard has.
 */
#ifndef KERNEL_TEST_H
#define KERNEL_TEST_H

#define _GNU_SOURCE 1 /* syscall */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "../check.h"

/* ---- begin ---- */

#define TEST_CANNOT_RUN 77 /* the exit status of a program that says why it did not test */

/* First in main: asks Linux for the AMX registers, which a process may not touch unasked. */
static inline void kernel_test_begin(void)
{
#if defined(__AMX_TILE__)
    enum { ARCH_REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    if (syscall(SYS_arch_prctl, ARCH_REQUEST_PERMISSION, TILE_DATA) != 0) {
        puts("the system refuses the AMX registers");
        exit(TEST_CANNOT_RUN);
    }
#endif
}

/* ---- numbers ---- */

/* SplitMix64 from a fixed seed: each run of a program sees the same numbers. */
static inline uint64_t test_random(void)
{
    static uint64_t state = 1;
    uint64_t bits = state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    return bits ^ (bits >> 31);
}

/* Evenly from `low` to `high`. */
static inline float test_uniform(float low, float high)
{
    return low + (high - low) * (float)(test_random() >> 40) * 0x1p-24f;
}

/* A whole number from 0 to limit - 1. */
static inline int32_t test_below(int32_t limit)
{
    return (int32_t)(test_random() % (uint64_t)limit);
}

static inline void test_fill(float *values, size_t count, float low, float high)
{
    for (size_t i = 0; i < count; i++)
        values[i] = test_uniform(low, high);
}

/* ---- comparisons ---- */

static inline void check_distance(double actual, double expected, double allowed, const char *file,
                                  int line)
{
    if (fabs(actual - expected) <= allowed) /* false for NaN */
        return;
    fprintf(stderr, "%s:%d: check failed: %.9g instead of %.9g, which is more than %.3g away\n",
            file, line, actual, expected, allowed);
    abort();
}

/* |actual - expected| <= tolerance. */
#define CHECK_CLOSE(actual, expected, tolerance) \
    check_distance(actual, expected, tolerance, __FILE__, __LINE__)

/* |actual - expected| <= tolerance * |expected|. */
#define CHECK_RELATIVE(actual, expected, tolerance) \
    check_distance(actual, expected, (tolerance) * fabs(expected), __FILE__, __LINE__)

/* ---- memory ---- */

/* An allocation lies between two guards. The address sanitizer reports who reads or writes them,
 * but it does not see masked and tile instructions: what these write is found by the guards' bytes.
 *
 *   [ size, guard bytes ... | the caller's bytes ... | guard bytes ... ]
 *     TEST_GUARD_BYTES                                 TEST_GUARD_BYTES
 */
#define TEST_GUARD_BYTES ((size_t)1024) /* as many as the largest store, a tile's, has */
#define TEST_GUARD_BYTE 0x5b

static inline void test_guards_close(unsigned char *bytes, size_t size)
{
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(bytes - TEST_GUARD_BYTES, TEST_GUARD_BYTES);
    ASAN_POISON_MEMORY_REGION(bytes + size, TEST_GUARD_BYTES);
#else
    (void)bytes, (void)size;
#endif
}

/* Makes the guards readable, and gives the size of what lies between them. */
static inline size_t test_guards_open(unsigned char *bytes)
{
    size_t size;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(bytes - TEST_GUARD_BYTES, TEST_GUARD_BYTES);
#endif
    memcpy(&size, bytes - TEST_GUARD_BYTES, sizeof size);
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(bytes + size, TEST_GUARD_BYTES);
#endif
    return size;
}

/* `size` bytes, aligned to 64, all 0xff: a float or bf16 that nobody wrote is NaN. */
static inline void *test_alloc(size_t size)
{
    size_t total = (size + 2 * TEST_GUARD_BYTES + 63) / 64 * 64;
    unsigned char *memory = aligned_alloc(64, total);
    CHECK(memory != NULL);
    unsigned char *bytes = memory + TEST_GUARD_BYTES;
    memset(memory, TEST_GUARD_BYTE, total);
    memcpy(memory, &size, sizeof size);
    memset(bytes, 0xff, size);
    test_guards_close(bytes, size);
    return bytes;
}

/* `count` floats, evenly from `low` to `high`. */
static inline float *test_alloc_floats(size_t count, float low, float high)
{
    float *values = test_alloc(count * sizeof(float));
    test_fill(values, count, low, high);
    return values;
}

/* Checks that nobody wrote outside of an allocation. */
static inline void test_check_guards(void *allocation)
{
    unsigned char *bytes = allocation;
    size_t size = test_guards_open(bytes);
    for (size_t i = sizeof size; i < TEST_GUARD_BYTES; i++)
        CHECK(bytes[i - TEST_GUARD_BYTES] == TEST_GUARD_BYTE);
    for (size_t i = 0; i < TEST_GUARD_BYTES; i++)
        CHECK(bytes[size + i] == TEST_GUARD_BYTE);
    test_guards_close(bytes, size);
}

/* test_check_guards(), then gives the memory back. NULL is let through. */
static inline void test_free(void *allocation)
{
    if (allocation == NULL)
        return;
    test_check_guards(allocation);
    test_guards_open(allocation);
    free((unsigned char *)allocation - TEST_GUARD_BYTES);
}

#endif
