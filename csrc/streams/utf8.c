#include "streams/utf8.h"

static utf8_result begin(utf8_part *part, uint8_t byte, uint8_t num_missing, uint8_t lowest,
                         uint8_t highest)
{
    *part = (utf8_part){{byte}, 1, num_missing, lowest, highest};
    return num_missing == 0 ? UTF8_CHARACTER : UTF8_KEPT;
}

/* Table 3-7 of the Unicode standard: the second byte's range excludes overlong forms, surrogates
 * and what is above U+10FFFF. */
static utf8_result take_first(utf8_part *part, uint8_t byte)
{
    if (byte < 0x80)
        return begin(part, byte, 0, 0, 0);
    if (byte < 0xC2 || byte > 0xF4)
        return UTF8_WRONG;
    if (byte < 0xE0)
        return begin(part, byte, 1, 0x80, 0xBF);
    if (byte < 0xF0)
        return begin(part, byte, 2, byte == 0xE0 ? 0xA0 : 0x80, byte == 0xED ? 0x9F : 0xBF);
    return begin(part, byte, 3, byte == 0xF0 ? 0x90 : 0x80, byte == 0xF4 ? 0x8F : 0xBF);
}

utf8_result utf8_take(utf8_part *part, uint8_t byte)
{
    if (!utf8_is_pending(part))
        return take_first(part, byte);
    if (byte < part->lowest || byte > part->highest) {
        part->num_missing = 0;
        return UTF8_CUT;
    }
    part->bytes[part->num_bytes++] = byte;
    part->lowest = 0x80;
    part->highest = 0xBF;
    return --part->num_missing == 0 ? UTF8_CHARACTER : UTF8_KEPT;
}

bool utf8_is_valid(const void *bytes, size_t num_bytes)
{
    const uint8_t *text = bytes;
    utf8_part part = {0};
    for (size_t i = 0; i < num_bytes; i++) {
        utf8_result result = utf8_take(&part, text[i]);
        if (result == UTF8_WRONG || result == UTF8_CUT)
            return false;
    }
    return !utf8_is_pending(&part);
}
