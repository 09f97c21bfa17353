/* unpack_group: from a group of quantised weights to bf16 ones. */
#ifndef REALTIME_SERVE_UNPACK_GROUP_H
#define REALTIME_SERVE_UNPACK_GROUP_H

#include "bf16.h"

/* Unpacks one group of 32 values along the depth, all columns of a panel. */
typedef void unpack_group(const uint8_t *group, bf16 *weights);

#endif
