/* Who is taken in, and where threads may run before, meanwhile and after. */
#define _GNU_SOURCE 1

#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "check.h"
#include "kernels/guest.h"

struct subject {
    struct guest guest;
    sem_t registered;
    sem_t may_end;
    _Atomic bool spins;
    _Atomic long num_spins;
};

static void *live(void *argument)
{
    struct subject *self = argument;
    guest_register(&self->guest);
    sem_post(&self->registered);
    while (atomic_load(&self->spins))
        atomic_fetch_add(&self->num_spins, 1);
    wait_for(&self->may_end);
    return NULL;
}

static pthread_t start_subject(struct subject *subject, bool spins)
{
    *subject = (struct subject){.spins = spins};
    sem_init(&subject->registered, 0, 0);
    sem_init(&subject->may_end, 0, 0);
    pthread_t thread = start_thread(live, subject);
    wait_for(&subject->registered);
    return thread;
}

static void end_subject(struct subject *subject, pthread_t thread)
{
    atomic_store(&subject->spins, false);
    sem_post(&subject->may_end);
    join_thread(thread);
    sem_destroy(&subject->registered);
    sem_destroy(&subject->may_end);
}

static cpu_set_t allowed(int thread_id)
{
    cpu_set_t cpus;
    CHECK(sched_getaffinity(thread_id, sizeof cpus, &cpus) == 0);
    return cpus;
}

static cpu_set_t only(int cpu)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    return cpus;
}

/* All but one CPU; all, if that is the only one. */
static cpu_set_t all_but(cpu_set_t cpus, int cpu)
{
    if (CPU_COUNT(&cpus) > 1)
        CPU_CLR(cpu, &cpus);
    return cpus;
}

static bool is_allowed_just(const struct subject *subject, cpu_set_t expected)
{
    cpu_set_t cpus = allowed(subject->guest.thread_id);
    return CPU_EQUAL(&cpus, &expected);
}

/* ---- a thread that has no CPU time is taken in, and sent away ---- */

/* It still runs for an instant after it has registered: tried again, until it rests. */
static void take_in_once_it_rests(struct guest *guest, int cpu)
{
    while (!guest->is_in) {
        guest_watch(guest);
        usleep(100);
        guest_take_in(guest, cpu);
    }
}

static void test_thread_at_rest_is_a_guest_until_it_is_sent_away(int cpu)
{
    struct subject subject;
    cpu_set_t all = allowed(0);
    pthread_t thread = start_subject(&subject, false);
    guest_send_away(&subject.guest, cpu);
    CHECK(is_allowed_just(&subject, all));
    take_in_once_it_rests(&subject.guest, cpu);
    CHECK(is_allowed_just(&subject, only(cpu)));
    guest_send_away(&subject.guest, cpu);
    CHECK(!subject.guest.is_in && is_allowed_just(&subject, all_but(all, cpu)));
    end_subject(&subject, thread);
}

/* ---- others are left alone ---- */

static void test_running_thread_is_left_alone(int cpu)
{
    struct subject subject;
    cpu_set_t all = allowed(0);
    pthread_t thread = start_subject(&subject, true);
    guest_watch(&subject.guest);
    long num_spins = atomic_load(&subject.num_spins);
    while (atomic_load(&subject.num_spins) < num_spins + 1000)
        sched_yield();
    guest_take_in(&subject.guest, cpu);
    CHECK(!subject.guest.is_in && is_allowed_just(&subject, all));
    end_subject(&subject, thread);
}

static void test_unregistered_thread_is_left_alone(int cpu)
{
    struct guest guest = {0};
    guest_watch(&guest);
    guest_take_in(&guest, cpu);
    CHECK(!guest.is_in);
}

/* ---- a thread leaves the CPU that it is on, and no other ---- */

static void *leave_cpus(void *argument)
{
    cpu_set_t all = *(cpu_set_t *)argument;
    guest_leave(-1);
    cpu_set_t cpus = allowed(0);
    CHECK(CPU_EQUAL(&cpus, &all));
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        cpu_set_t here = only(cpu);
        CHECK(sched_setaffinity(0, sizeof here, &here) == 0);
        CHECK(guest_current_cpu() == cpu);
        guest_leave(cpu);
        cpus = allowed(0);
        cpu_set_t expected = CPU_COUNT(&all) > 1 ? all_but(all, cpu) : here;
        CHECK(CPU_EQUAL(&cpus, &expected));
    }
    return NULL;
}

static void test_thread_leaves_the_cpu_that_it_is_on(void)
{
    cpu_set_t all = allowed(0);
    join_thread(start_thread(leave_cpus, &all));
    cpu_set_t mine = allowed(0);
    CHECK(CPU_EQUAL(&mine, &all));
}

int main(void)
{
    int cpu = guest_current_cpu();
    if (cpu >= 0) {
        test_thread_at_rest_is_a_guest_until_it_is_sent_away(cpu);
        test_running_thread_is_left_alone(cpu);
        test_thread_leaves_the_cpu_that_it_is_on();
    }
    test_unregistered_thread_is_left_alone(0);
    puts("guest: ok");
    return 0;
}
