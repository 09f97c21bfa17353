#include "streams/byte_buffer.h"

#include <stdint.h>
#include <stdlib.h>

/* Two or three events: what a stream that keeps up with its model needs at a time. */
#define FIRST_CAPACITY 1024

void byte_buffer_free(byte_buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (byte_buffer){0};
}

bool byte_buffer_grow(byte_buffer *buffer, size_t num_bytes)
{
    if (num_bytes > SIZE_MAX / 4 - buffer->size)
        return false;
    size_t capacity = buffer->capacity == 0 ? FIRST_CAPACITY : buffer->capacity;
    while (capacity - buffer->size < num_bytes)
        capacity *= 2;
    char *bytes = realloc(buffer->bytes, capacity);
    if (bytes == NULL)
        return false;
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return true;
}
