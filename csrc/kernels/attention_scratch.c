/* attention_scratch: how much memory an attention needs beside its arguments. */
#include "attention_scratch.h"

size_t attention_scratch_bytes(int32_t group, int32_t head_dim)
{
    (void)group;
    size_t num_values = (size_t)2 * ATTENTION_MAX_QUERIES * (size_t)head_dim;
    size_t workspace_bytes = (size_t)ATTENTION_PART_TOKENS * (size_t)head_dim;
    return sizeof(struct attention_scratch) + num_values * sizeof(float) + workspace_bytes;
}
