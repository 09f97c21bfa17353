#define _GNU_SOURCE 1 /* madvise, syscall */

#include "measure.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "level.h"

#define TEXT_OF_EXPANDED(name) #name
#define TEXT_OF(name) TEXT_OF_EXPANDED(name)

struct member {
    pthread_t thread;
    measured_work *work;
    const void *context;
    int index;
    double time_s;
};

static double cpu_time_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *run_member(void *argument)
{
    struct member *member = argument;
    double start_s = cpu_time_s();
    member->work(member->context, member->index);
    member->time_s = cpu_time_s() - start_s;
    return NULL;
}

static void end_with(const char *what_failed)
{
    perror(what_failed);
    exit(1);
}

void measure(measured_work *work, const void *context, int num_threads, double *least_s)
{
    struct member members[MAX_THREADS];
    double slowest_s = 0;
    for (int i = 0; i < num_threads; i++) {
        members[i] = (struct member){.work = work, .context = context, .index = i};
        if (pthread_create(&members[i].thread, NULL, run_member, &members[i]) != 0)
            end_with("pthread_create");
    }
    for (int i = 0; i < num_threads; i++) {
        pthread_join(members[i].thread, NULL);
        slowest_s = members[i].time_s > slowest_s ? members[i].time_s : slowest_s;
    }
    *least_s = slowest_s < *least_s ? slowest_s : *least_s;
}

void *allocate(size_t num_bytes)
{
    const size_t page = (size_t)2 << 20;
    size_t size = (num_bytes + page - 1) / page * page;
    void *memory = aligned_alloc(page, size);
    if (memory == NULL)
        end_with("aligned_alloc");
    madvise(memory, size, MADV_HUGEPAGE); /* or smaller ones, if the system has none */
    return memory;
}

uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state;
}

float next_random_float(uint32_t *state)
{
    return (float)(int32_t)next_random(state) * 0x1p-31f;
}

void request_tiles(void)
{
#if defined(__AMX_TILE__)
    enum { ARCH_REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    if (syscall(SYS_arch_prctl, ARCH_REQUEST_PERMISSION, TILE_DATA) != 0)
        end_with("arch_prctl");
#endif
}

const char *level_name(void)
{
    return TEXT_OF(KERNEL_LEVEL);
}
