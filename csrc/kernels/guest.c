#define _GNU_SOURCE 1 /* sched_getcpu, sched_setaffinity, pthread_getcpuclockid, syscall */

#include "guest.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THIS_THREAD 0

static int64_t cpu_ns(clockid_t cpu_clock)
{
    struct timespec time;
    clock_gettime(cpu_clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void allow_only(int thread_id, int cpu)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    sched_setaffinity(thread_id, sizeof cpus, &cpus);
}

static void allow_all_but(int thread_id, int cpu)
{
    cpu_set_t cpus;
    if (sched_getaffinity(getpid(), sizeof cpus, &cpus) != 0)
        return;
    CPU_CLR(cpu, &cpus);
    if (CPU_COUNT(&cpus) > 0)
        sched_setaffinity(thread_id, sizeof cpus, &cpus);
}

void guest_register(struct guest *guest)
{
    clockid_t cpu_clock;
    guest->thread_id = (int)syscall(SYS_gettid);
    if (pthread_getcpuclockid(pthread_self(), &cpu_clock) == 0)
        atomic_store(&guest->cpu_clock, cpu_clock);
}

int guest_current_cpu(void)
{
    return sched_getcpu();
}

void guest_leave(int cpu)
{
    if (cpu >= 0 && cpu == sched_getcpu())
        allow_all_but(THIS_THREAD, cpu);
}

void guest_watch(struct guest *guest)
{
    clockid_t cpu_clock = atomic_load(&guest->cpu_clock);
    if (cpu_clock != 0)
        guest->seen_cpu_ns = cpu_ns(cpu_clock);
}

void guest_take_in(struct guest *guest, int cpu)
{
    clockid_t cpu_clock = atomic_load(&guest->cpu_clock);
    if (guest->is_in || cpu < 0 || cpu_clock == 0 || cpu_ns(cpu_clock) != guest->seen_cpu_ns)
        return;
    allow_only(guest->thread_id, cpu);
    guest->is_in = true;
}

void guest_send_away(struct guest *guest, int cpu)
{
    if (!guest->is_in)
        return;
    allow_all_but(guest->thread_id, cpu);
    guest->is_in = false;
}
