/* Products with 4-bit weights are those of matrix.h, whatever the codes, shapes and rows. */
#include "gemm_quantized_checks.h"

int main(void)
{
    kernel_test_begin();
    check_product(KERNEL(gemm_q4), WEIGHTS_Q4);
    for (int32_t num_rows = 1; num_rows <= MAX_ROWS; num_rows += 13) {
        extreme_codes_do_not_overflow(KERNEL(gemm_q4), WEIGHTS_Q4, 0xff, 127, num_rows);
        extreme_codes_do_not_overflow(KERNEL(gemm_q4), WEIGHTS_Q4, 0xff, -127, num_rows);
    }
    puts("gemm_q4: ok");
    return 0;
}
