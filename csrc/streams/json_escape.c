#include "streams/json_escape.h"

#define MAX_ESCAPE_BYTES 6 /* \u0000 */

static char short_escape(unsigned char byte)
{
    switch (byte) {
    case '"':
        return '"';
    case '\\':
        return '\\';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    case '\f':
        return 'f';
    case '\b':
        return 'b';
    default:
        return 0;
    }
}

static bool append_escape(byte_buffer *buffer, unsigned char byte)
{
    static const char digits[] = "0123456789abcdef";
    char letter = short_escape(byte);
    char escape[MAX_ESCAPE_BYTES] = {'\\', letter};
    if (letter != 0)
        return byte_buffer_append(buffer, escape, 2);
    memcpy(escape, (char[]){'\\', 'u', '0', '0', digits[byte >> 4], digits[byte & 15]},
           MAX_ESCAPE_BYTES);
    return byte_buffer_append(buffer, escape, MAX_ESCAPE_BYTES);
}

bool json_escape_append(byte_buffer *buffer, const void *text, size_t num_bytes)
{
    const unsigned char *bytes = text;
    size_t plain = 0; /* where the bytes begin that are yet to be copied as they are */
    for (size_t i = 0; i < num_bytes; i++) {
        if (bytes[i] >= 0x20 && bytes[i] != '"' && bytes[i] != '\\')
            continue;
        if (!byte_buffer_append(buffer, bytes + plain, i - plain) ||
            !append_escape(buffer, bytes[i]))
            return false;
        plain = i + 1;
    }
    return byte_buffer_append(buffer, bytes + plain, num_bytes - plain);
}
