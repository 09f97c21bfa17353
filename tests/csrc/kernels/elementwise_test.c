/* Addition, to the bit. */
#include "kernel_test.h"

#include "kernels.h"

#define COUNT 1536

static void add_is_the_rounded_sum(void)
{
    float before[COUNT];
    float *x = test_alloc_floats(COUNT, -3, 3);
    float *y = test_alloc_floats(COUNT, -3, 3);
    memcpy(before, x, sizeof before);
    KERNEL(add)(x, y, COUNT);
    for (int32_t i = 0; i < COUNT; i++)
        CHECK(x[i] == before[i] + y[i]);
    test_free(x), test_free(y);
}

int main(void)
{
    kernel_test_begin();
    add_is_the_rounded_sum();
    puts("elementwise: ok");
    return 0;
}
