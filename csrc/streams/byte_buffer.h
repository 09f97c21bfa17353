/* byte_buffer: bytes that grow at their end.
 *
 * A zeroed struct is an empty buffer. The memory is kept when the buffer is emptied, so that a
 * stream allocates for its first events only. One owner, no locks. */
#ifndef REALTIME_SERVE_BYTE_BUFFER_H
#define REALTIME_SERVE_BYTE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct byte_buffer {
    char *bytes;
    size_t size;
    size_t capacity;
} byte_buffer;

/* Gives the memory back; the buffer is empty and usable afterwards. */
void byte_buffer_free(byte_buffer *buffer);

/* Makes room for num_bytes more. Returns false, and changes nothing, if there is no memory. */
bool byte_buffer_grow(byte_buffer *buffer, size_t num_bytes);

/* Appends bytes. Returns false, and appends nothing, if there is no memory. */
static inline bool byte_buffer_append(byte_buffer *buffer, const void *bytes, size_t num_bytes)
{
    if (num_bytes > buffer->capacity - buffer->size && !byte_buffer_grow(buffer, num_bytes))
        return false;
    if (num_bytes > 0)
        memcpy(buffer->bytes + buffer->size, bytes, num_bytes);
    buffer->size += num_bytes;
    return true;
}

#endif
