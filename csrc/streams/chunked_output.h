/* chunked_output: one HTTP answer's chunks on their way to a client, never waiting for it.
 *
 *     chunk ─▶ bytes ─▶ send() without blocking ─▶ the kernel's queue ─▶ the client
 *              └───────── at most 64 KiB in both, or the output is blocked ─────────┘
 *
 * The output owns a duplicate of the connection's descriptor: the number of the original may be
 * closed and given to another client at any time, that of the duplicate cannot. Closing an output
 * that holds unsent bytes shuts the connection down, since its peer has half a chunk and whatever
 * came after it would be taken for the rest.
 *
 * Somebody else watches for the descriptor to become writable and then calls
 * chunked_output_resume(). One thread at a time. */
#ifndef REALTIME_SERVE_CHUNKED_OUTPUT_H
#define REALTIME_SERVE_CHUNKED_OUTPUT_H

#include "streams/byte_buffer.h"

/* Events are taken up to the first bound and a few events more, and the kernel is given no more
 * than the second: together they stay below 64 KiB. */
#define CHUNKED_OUTPUT_MAX_BUFFERED_BYTES ((size_t)8 * 1024)
#define CHUNKED_OUTPUT_MAX_QUEUED_BYTES ((size_t)48 * 1024)

typedef enum chunked_output_state {
    CHUNKED_OUTPUT_READY,
    CHUNKED_OUTPUT_BLOCKED, /* the client does not keep up: wait until it is writable */
    CHUNKED_OUTPUT_DEAD,    /* the connection is gone; what is written is dropped */
} chunked_output_state;

typedef struct chunked_output {
    int fd; /* owned */
    chunked_output_state state;
    byte_buffer bytes;  /* those before `start` have been sent */
    size_t start;
    size_t num_allowed; /* bytes to send before the kernel's queue is looked at again */
    size_t num_sent;    /* since the beginning */
    size_t num_lost;    /* unsent when the connection ended */
} chunked_output;

/* Duplicates fd, a connected stream socket. Returns false with errno if it cannot. */
bool chunked_output_open(chunked_output *output, int fd);

/* Closes the duplicate and gives memory back; shuts the connection down first if bytes are
 * unsent. May be called again. */
void chunked_output_close(chunked_output *output);

/* Shuts the connection down and drops what is unsent: nobody can send anything on it any more,
 * so that half an answer is never taken for a whole one. */
void chunked_output_abort(chunked_output *output);

/* Bytes that were written and not yet given to the kernel. */
static inline size_t chunked_output_num_unsent(const chunked_output *output)
{
    return output->bytes.size - output->start;
}

/* Begins a chunk of unknown size: what is appended to `bytes` until chunked_output_end() is its
 * content. Only while nothing is unsent. Returns false if there is no memory. */
bool chunked_output_begin(chunked_output *output);

/* Frames what was appended; without content there is no chunk. Returns false if there is no
 * memory; then there is no chunk either. */
bool chunked_output_end(chunked_output *output);

/* Drops the chunk that was begun. */
void chunked_output_abandon(chunked_output *output);

/* Appends a chunk behind what is unsent. Returns false, and appends nothing, if there is no
 * memory. Without content there is no chunk. */
bool chunked_output_write(chunked_output *output, const void *bytes, size_t num_bytes);

/* Sends what is unsent as far as the kernel takes it and the bound allows. */
chunked_output_state chunked_output_flush(chunked_output *output);

/* Goes on after the descriptor became writable. */
chunked_output_state chunked_output_resume(chunked_output *output);

/* Ends the answer, and the connection, without waiting: gives the kernel all that is unsent and
 * the last, empty chunk, past the bound. A client that reads one day then sees the whole end.
 * Returns false if the kernel does not take it all; then the answer is cut off. */
bool chunked_output_conclude(chunked_output *output);

#endif
