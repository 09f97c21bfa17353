/* Rotation of a head against complex multiplication in double. */
#include "kernel_test.h"

#include "kernels.h"

#define MAX_HEAD_DIM 256
#define TOLERANCE (4 * 0x1p-24) /* of a head whose values are at most 2 */

static void fill_angles(int32_t count, float *cosines, float *sines)
{
    for (int32_t i = 0; i < count; i++) {
        double angle = test_uniform(-4, 4);
        cosines[i] = (float)cos(angle);
        sines[i] = (float)sin(angle);
    }
}

static void check_head(int32_t head_dim)
{
    int32_t half = head_dim / 2;
    float before[MAX_HEAD_DIM];
    float *head = test_alloc_floats((size_t)head_dim, -2, 2);
    float *cosines = test_alloc((size_t)half * sizeof(float));
    float *sines = test_alloc((size_t)half * sizeof(float));
    fill_angles(half, cosines, sines);
    memcpy(before, head, (size_t)head_dim * sizeof(float));
    KERNEL(rotate)(head, head_dim, cosines, sines);

    for (int32_t i = 0; i < half; i++) {
        double x = before[i], y = before[i + half];
        CHECK_CLOSE(head[i], x * cosines[i] - y * sines[i], TOLERANCE);
        CHECK_CLOSE(head[i + half], y * cosines[i] + x * sines[i], TOLERANCE);
    }
    test_free(head), test_free(cosines), test_free(sines);
}

static void each_pair_is_turned_by_its_own_angle(void)
{
    for (int32_t head_dim = 32; head_dim <= MAX_HEAD_DIM; head_dim += 32)
        check_head(head_dim);
}

static void no_turn_changes_no_bit(void)
{
    enum { HEAD_DIM = 64 };
    float before[HEAD_DIM];
    float *head = test_alloc_floats(HEAD_DIM, -2, 2);
    float *cosines = test_alloc_floats(HEAD_DIM / 2, 1, 1);
    float *sines = test_alloc_floats(HEAD_DIM / 2, 0, 0);
    memcpy(before, head, sizeof before);
    KERNEL(rotate)(head, HEAD_DIM, cosines, sines);
    CHECK(memcmp(head, before, sizeof before) == 0);
    test_free(head), test_free(cosines), test_free(sines);
}

int main(void)
{
    kernel_test_begin();
    each_pair_is_turned_by_its_own_angle();
    no_turn_changes_no_bit();
    puts("rotary: ok");
    return 0;
}
