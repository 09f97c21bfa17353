/* level: the same kernel sources, compiled once for each CPU level.
 *
 * A kernel is written once, with vectors of the width that the level has (vec.h), and with
 * `#if defined(__AVX512BF16__)` and the like where a level has an instruction of its own. The
 * build compiles it once for each level with that level's flags and -DKERNEL_LEVEL=avx2 (and so
 * on); KERNEL(rms_norm) is then rms_norm_avx2. Who runs on which CPU is decided at run time, once,
 * by kernel_ops_for (ops.h). levels.toml says which sources and which flags; setup.py and the tests
 * read it.
 *
 *   portable      whatever the compiler's baseline is; any architecture
 *   avx2          AVX2, FMA, F16C
 *   avx512        AVX-512 F, BW, VL, DQ
 *   avx512_bf16   and BF16, VNNI
 *   amx           and AMX tiles: TILE, BF16, INT8; VBMI, which all that have these have
 */
#ifndef REALTIME_SERVE_LEVEL_H
#define REALTIME_SERVE_LEVEL_H

#ifndef KERNEL_LEVEL
#error "kernel sources are compiled once for each CPU level, with -DKERNEL_LEVEL=<level>"
#endif

#define KERNEL_JOIN_EXPANDED(name, level) name##_##level
#define KERNEL_JOIN(name, level) KERNEL_JOIN_EXPANDED(name, level)
#define KERNEL(name) KERNEL_JOIN(name, KERNEL_LEVEL)

#endif
