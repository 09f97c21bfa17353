# Declarations of batch_queue.h; the header says what each function promises.
from libc.stdint cimport int64_t, uint64_t

cdef extern from "batch_queue.h" nogil:
    const unsigned BATCH_QUEUE_NUM_CLASSES
    const size_t BATCH_QUEUE_MAX_CAPACITY

    ctypedef struct batch_queue:
        pass

    ctypedef enum batch_queue_status:
        BATCH_QUEUE_OK
        BATCH_QUEUE_FULL
        BATCH_QUEUE_CLOSED

    ctypedef enum batch_queue_wake:
        BATCH_QUEUE_HAS_ITEMS
        BATCH_QUEUE_WAS_KICKED
        BATCH_QUEUE_WAS_CLOSED
        BATCH_QUEUE_TIMED_OUT

    batch_queue *batch_queue_new(size_t capacity)
    void batch_queue_free(batch_queue *queue)

    batch_queue_status batch_queue_put(batch_queue *queue, void *item, unsigned priority,
                                       uint64_t tag, uint64_t *handle)
    batch_queue_wake batch_queue_take(batch_queue *queue, void **items, size_t max_items,
                                      int64_t deadline_ns, size_t *num_taken)
    void *batch_queue_remove(batch_queue *queue, uint64_t handle)
    void batch_queue_kick(batch_queue *queue)
    size_t batch_queue_close(batch_queue *queue, void **items)

    bint batch_queue_is_closed(batch_queue *queue)
    size_t batch_queue_length(batch_queue *queue)
    size_t batch_queue_count(batch_queue *queue, unsigned priority)
    size_t batch_queue_capacity(const batch_queue *queue)
    bint batch_queue_position(batch_queue *queue, uint64_t handle, size_t *num_ahead)
    bint batch_queue_check_integrity(batch_queue *queue)
