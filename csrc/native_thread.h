/* native_thread: a POSIX thread that runs one C function, made to be joined.
 *
 * The inference thread is one of these and not a Python thread, because under gevent even
 * the unpatched threading module ends up in locks that belong to the hub. What this adds to
 * pthread_create(3): a join with a deadline that may be repeated and called from several
 * threads, a thread that may also be abandoned, a large stack, a name for debuggers, and no
 * signals, so that Python's handlers run in the main thread only.
 *
 *   NEW ──start──▶ RUNNING ──body returns──▶ ENDED
 *
 * The owner and the running thread each hold a reference to the object; the last one frees
 * it. After fork(2) the child has the object but not the thread: there it counts as ended.
 */
#ifndef REALTIME_SERVE_NATIVE_THREAD_H
#define REALTIME_SERVE_NATIVE_THREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Enough for CPython to format a traceback. */
#define NATIVE_THREAD_MIN_STACK_BYTES ((size_t)256 * 1024)

/* Linux keeps 15 characters of a name. */
#define NATIVE_THREAD_NAME_BYTES 16

typedef struct native_thread native_thread;
typedef void (*native_thread_body)(void *argument);

/* Makes a thread that has not started. A longer name is cut. Returns NULL with errno ENOMEM,
 * or what pthread_mutex_init(3) and pthread_cond_init(3) give. */
native_thread *native_thread_new(const char *name, size_t stack_bytes);

/* Gives up ownership. A thread that runs goes on, detached, and frees the object when it
 * ends. The thread itself may call this. NULL is let through. */
void native_thread_release(native_thread *thread);

/* Starts the thread: it calls body(argument) once. Returns 0; EALREADY if it was started
 * before; or the errno value of pthread_create(3) or pthread_attr_setstacksize(3), and then
 * body is never called and start may be tried again. Any thread. */
int native_thread_start(native_thread *thread, native_thread_body body, void *argument);

/* Waits until the thread has ended and its stack and thread-local storage are gone, or the
 * deadline is reached. Returns whether it has ended. It must have been started, and must not
 * wait for itself. Any thread, several at once, as often as wanted; without the GIL. The
 * destructors of thread-local storage, which run last, are waited for past the deadline. */
bool native_thread_join(native_thread *thread, int64_t deadline_ns);

/* Whether it was ever started. Any thread. */
bool native_thread_is_started(const native_thread *thread);

/* Whether body is running or about to. Any thread. */
bool native_thread_is_alive(const native_thread *thread);

/* Whether the calling thread is this one. */
bool native_thread_is_current(const native_thread *thread);

/* The kernel's thread id; 0 until it runs. It stays after the end. Any thread. */
int native_thread_id(const native_thread *thread);

/* Writes text to the standard error stream with write(2), past all buffers and locks. What
 * cannot be written at once is dropped. Any thread; without the GIL, a pipe may block. */
void native_thread_report(const char *text, size_t num_bytes);

#endif
