#define _GNU_SOURCE 1 /* pthread_setname_np, syscall */

#include "native_thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "deadline.h"

/* STARTING is claimed by the one call of start that goes on; to others it is still NEW. */
enum phase { NEW, STARTING, RUNNING, ENDED };

struct native_thread {
    _Atomic int num_references;
    _Atomic int phase;
    _Atomic int kernel_id;
    pid_t process; /* where it was started */
    char name[NATIVE_THREAD_NAME_BYTES];
    size_t stack_bytes;
    native_thread_body body;
    void *argument;
    pthread_mutex_t lock; /* guards what follows, and the change to ENDED */
    pthread_cond_t has_ended;
    pthread_t handle;
    bool joined;
};

/* ---- life ---- */

static int init_lock(native_thread *thread)
{
    int status = pthread_mutex_init(&thread->lock, NULL);
    if (status != 0)
        return status;
    status = deadline_cond_init(&thread->has_ended);
    if (status != 0)
        pthread_mutex_destroy(&thread->lock);
    return status;
}

native_thread *native_thread_new(const char *name, size_t stack_bytes)
{
    native_thread *thread = calloc(1, sizeof(native_thread));
    if (thread == NULL)
        return NULL;
    int status = init_lock(thread);
    if (status != 0) {
        free(thread);
        errno = status;
        return NULL;
    }
    strncpy(thread->name, name, sizeof(thread->name) - 1);
    thread->stack_bytes = stack_bytes;
    atomic_init(&thread->num_references, 1);
    atomic_init(&thread->phase, NEW);
    return thread;
}

static void drop_reference(native_thread *thread)
{
    if (atomic_fetch_sub_explicit(&thread->num_references, 1, memory_order_acq_rel) > 1)
        return;
    pthread_cond_destroy(&thread->has_ended);
    pthread_mutex_destroy(&thread->lock);
    free(thread);
}

/* In a forked child the handle points to memory that is no longer a thread's. */
static bool is_of_this_process(const native_thread *thread)
{
    return thread->process == getpid();
}

static void detach(native_thread *thread)
{
    pthread_mutex_lock(&thread->lock);
    if (!thread->joined)
        pthread_detach(thread->handle);
    pthread_mutex_unlock(&thread->lock);
}

void native_thread_release(native_thread *thread)
{
    if (thread == NULL)
        return;
    if (native_thread_is_started(thread) && is_of_this_process(thread))
        detach(thread);
    drop_reference(thread);
}

/* ---- the thread itself ---- */

static void announce_end(native_thread *thread)
{
    pthread_mutex_lock(&thread->lock);
    atomic_store_explicit(&thread->phase, ENDED, memory_order_release);
    pthread_cond_broadcast(&thread->has_ended);
    pthread_mutex_unlock(&thread->lock);
}

static void *run(void *started)
{
    native_thread *thread = started;
    pthread_setname_np(pthread_self(), thread->name);
    atomic_store_explicit(&thread->kernel_id, (int)syscall(SYS_gettid), memory_order_release);
    thread->body(thread->argument);
    announce_end(thread);
    drop_reference(thread);
    return NULL;
}

/* Signals that a fault of the thread itself raises stay open: the kernel kills the process
 * without a word if they are blocked, and a crash handler could not print where it was. */
static void fill_with_asynchronous(sigset_t *signals)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigfillset(signals);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        sigdelset(signals, faults[i]);
}

/* A thread inherits its mask: blocking around the creation leaves no moment in between. */
static int create_without_signals(native_thread *thread, const pthread_attr_t *attributes)
{
    sigset_t blocked;
    sigset_t before;
    fill_with_asynchronous(&blocked);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    int status = pthread_create(&thread->handle, attributes, run, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

static int create(native_thread *thread)
{
    pthread_attr_t attributes;
    int status = pthread_attr_init(&attributes);
    if (status != 0)
        return status;
    status = pthread_attr_setstacksize(&attributes, thread->stack_bytes);
    if (status == 0)
        status = create_without_signals(thread, &attributes);
    pthread_attr_destroy(&attributes);
    return status;
}

int native_thread_start(native_thread *thread, native_thread_body body, void *argument)
{
    int expected = NEW;
    if (!atomic_compare_exchange_strong(&thread->phase, &expected, STARTING))
        return EALREADY;
    thread->process = getpid();
    thread->body = body;
    thread->argument = argument;
    atomic_fetch_add_explicit(&thread->num_references, 1, memory_order_relaxed);
    /* The lock keeps the end of a short body from being seen before the handle is there. */
    pthread_mutex_lock(&thread->lock);
    atomic_store_explicit(&thread->phase, RUNNING, memory_order_release);
    int status = create(thread);
    pthread_mutex_unlock(&thread->lock);
    if (status != 0) {
        atomic_fetch_sub_explicit(&thread->num_references, 1, memory_order_relaxed);
        atomic_store_explicit(&thread->phase, NEW, memory_order_release);
    }
    return status;
}

/* ---- waiting for it ---- */

static bool is_ended(const native_thread *thread)
{
    return atomic_load_explicit(&thread->phase, memory_order_acquire) == ENDED;
}

bool native_thread_join(native_thread *thread, int64_t deadline_ns)
{
    if (!is_of_this_process(thread))
        return true;
    pthread_mutex_lock(&thread->lock);
    while (!is_ended(thread) && !deadline_passed(deadline_ns))
        deadline_wait(&thread->has_ended, &thread->lock, deadline_ns);
    bool ended = is_ended(thread);
    /* Under the lock, so that one joins and the others return after it; the thread does not
     * take the lock again once it has ended. */
    if (ended && !thread->joined) {
        pthread_join(thread->handle, NULL);
        thread->joined = true;
    }
    pthread_mutex_unlock(&thread->lock);
    return ended;
}

bool native_thread_is_started(const native_thread *thread)
{
    return atomic_load_explicit(&thread->phase, memory_order_acquire) >= RUNNING;
}

bool native_thread_is_alive(const native_thread *thread)
{
    return atomic_load_explicit(&thread->phase, memory_order_acquire) == RUNNING &&
           is_of_this_process(thread);
}

bool native_thread_is_current(const native_thread *thread)
{
    return native_thread_is_alive(thread) && native_thread_id(thread) == syscall(SYS_gettid);
}

int native_thread_id(const native_thread *thread)
{
    return atomic_load_explicit(&thread->kernel_id, memory_order_acquire);
}

/* ---- last words ---- */

void native_thread_report(const char *text, size_t num_bytes)
{
    while (num_bytes > 0) {
        ssize_t num_written = write(STDERR_FILENO, text, num_bytes);
        if (num_written < 0 && errno == EINTR)
            continue;
        if (num_written <= 0)
            return;
        text += num_written;
        num_bytes -= (size_t)num_written;
    }
}
