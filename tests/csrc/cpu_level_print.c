/* Prints which level is chosen on this CPU when the build has them all. */
#include "kernels/ops.h"

#include <stdio.h>

/* What a build defines; here it need not be more than there. */
const struct kernel_ops kernel_ops_portable, kernel_ops_avx2, kernel_ops_avx512,
    kernel_ops_avx512_bf16, kernel_ops_amx;

int main(void)
{
    puts(cpu_level_name(cpu_level_best()));
    return 0;
}
