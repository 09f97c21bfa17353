/* Which level this CPU can execute, asked by CPUID and not by the compiler's built-in tests: those
 * of older compilers do not know all that is asked for here. */
#define _GNU_SOURCE 1 /* syscall */

#include "ops.h"

#include <stdbool.h>
#include <stddef.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const char *const names[NUM_CPU_LEVELS] = {
    [CPU_PORTABLE] = "portable",
    [CPU_AVX2] = "avx2",
    [CPU_AVX512] = "avx512",
    [CPU_AVX512_BF16] = "avx512_bf16",
    [CPU_AMX] = "amx",
};

const char *cpu_level_name(enum cpu_level level)
{
    return names[level];
}

/* ---- the build ---- */

extern const struct kernel_ops kernel_ops_portable, kernel_ops_avx2, kernel_ops_avx512,
    kernel_ops_avx512_bf16, kernel_ops_amx;

/* A compiler may not know a level's instructions; the build defines HAVE_LEVEL_ for those it has. */
static const struct kernel_ops *const built[NUM_CPU_LEVELS] = {
#if defined(HAVE_LEVEL_PORTABLE)
    [CPU_PORTABLE] = &kernel_ops_portable,
#endif
#if defined(HAVE_LEVEL_AVX2)
    [CPU_AVX2] = &kernel_ops_avx2,
#endif
#if defined(HAVE_LEVEL_AVX512)
    [CPU_AVX512] = &kernel_ops_avx512,
#endif
#if defined(HAVE_LEVEL_AVX512_BF16)
    [CPU_AVX512_BF16] = &kernel_ops_avx512_bf16,
#endif
#if defined(HAVE_LEVEL_AMX)
    [CPU_AMX] = &kernel_ops_amx,
#endif
};

const struct kernel_ops *kernel_ops_for(enum cpu_level level)
{
    return built[level];
}

/* ---- the CPU ---- */

#if defined(__x86_64__)

#define BIT(number) (UINT32_C(1) << (number))

/* What a level needs of the registers of CPUID, named by leaf and register, and of XCR0, where the
 * operating system says whose registers it saves when it switches threads. */
struct features {
    uint32_t leaf_1_ecx;
    uint32_t leaf_7_ebx;
    uint32_t leaf_7_ecx;
    uint32_t leaf_7_edx;
    uint32_t leaf_7_1_eax;
    uint32_t saved;
};

#define OSXSAVE BIT(27) /* leaf_1_ecx: XCR0 can be read */

/* What each level adds to the one below it. */
static const struct features added[NUM_CPU_LEVELS] = {
    [CPU_AVX2] =
        {
            .leaf_1_ecx = BIT(12) /* FMA */ | OSXSAVE | BIT(28) /* AVX */ | BIT(29) /* F16C */,
            .leaf_7_ebx = BIT(5), /* AVX2 */
            .saved = BIT(1) /* XMM */ | BIT(2) /* YMM */,
        },
    [CPU_AVX512] =
        {
            .leaf_7_ebx = BIT(16) /* F */ | BIT(17) /* DQ */ | BIT(30) /* BW */ | BIT(31) /* VL */,
            .saved = BIT(5) /* masks */ | BIT(6) /* upper halves */ | BIT(7) /* ZMM16 to 31 */,
        },
    [CPU_AVX512_BF16] =
        {
            .leaf_7_ecx = BIT(11),  /* AVX512_VNNI */
            .leaf_7_1_eax = BIT(5), /* AVX512_BF16 */
        },
    [CPU_AMX] =
        {
            .leaf_7_ecx = BIT(1), /* AVX512_VBMI */
            .leaf_7_edx = BIT(22) /* BF16 */ | BIT(24) /* TILE */ | BIT(25) /* INT8 */,
            .saved = BIT(17) /* tile configuration */ | BIT(18) /* tile data */,
        },
};

static uint32_t saved_registers(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static struct features cpu_features(void)
{
    struct features cpu = {0};
    uint32_t eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        cpu.leaf_1_ecx = ecx;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
        cpu.leaf_7_ebx = ebx;
        cpu.leaf_7_ecx = ecx;
        cpu.leaf_7_edx = edx;
        if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx))
            cpu.leaf_7_1_eax = eax;
    }
    if (cpu.leaf_1_ecx & OSXSAVE)
        cpu.saved = saved_registers();
    return cpu;
}

static bool has_bits(uint32_t value, uint32_t bits)
{
    return (value & bits) == bits;
}

static bool has_features(const struct features *cpu, const struct features *needed)
{
    return has_bits(cpu->leaf_1_ecx, needed->leaf_1_ecx) &&
           has_bits(cpu->leaf_7_ebx, needed->leaf_7_ebx) &&
           has_bits(cpu->leaf_7_ecx, needed->leaf_7_ecx) &&
           has_bits(cpu->leaf_7_edx, needed->leaf_7_edx) &&
           has_bits(cpu->leaf_7_1_eax, needed->leaf_7_1_eax) && has_bits(cpu->saved, needed->saved);
}

/* Linux gives a process the tile registers only when it asks; to ask again does nothing. */
static bool may_use_tiles(void)
{
    enum { ARCH_REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQUEST_PERMISSION, TILE_DATA) == 0;
}

static enum cpu_level executable_level(void)
{
    struct features cpu = cpu_features();
    int level = CPU_PORTABLE;
    while (level + 1 < NUM_CPU_LEVELS && has_features(&cpu, &added[level + 1]))
        level++;
    return level == CPU_AMX && !may_use_tiles() ? CPU_AMX - 1 : (enum cpu_level)level;
}

#else

static enum cpu_level executable_level(void)
{
    return CPU_PORTABLE;
}

#endif

enum cpu_level cpu_level_best(void)
{
    int level = executable_level();
    while (level > CPU_PORTABLE && built[level] == NULL)
        level--;
    return (enum cpu_level)level;
}
