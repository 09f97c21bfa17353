/* Products with 8-bit weights are those of matrix.h, whatever the codes, shapes and rows. */
#include "gemm_quantized_checks.h"

int main(void)
{
    kernel_test_begin();
    check_product(KERNEL(gemm_q8), WEIGHTS_Q8);
    for (int32_t num_rows = 1; num_rows <= MAX_ROWS; num_rows += 13) {
        extreme_codes_do_not_overflow(KERNEL(gemm_q8), WEIGHTS_Q8, 0x80, 127, num_rows);
        extreme_codes_do_not_overflow(KERNEL(gemm_q8), WEIGHTS_Q8, 0x80, -127, num_rows);
        extreme_codes_do_not_overflow(KERNEL(gemm_q8), WEIGHTS_Q8, 0x7f, 127, num_rows);
        extreme_codes_do_not_overflow(KERNEL(gemm_q8), WEIGHTS_Q8, 0x7f, -127, num_rows);
    }
    puts("gemm_q8: ok");
    return 0;
}
