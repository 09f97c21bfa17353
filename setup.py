"""The C extensions and how they are compiled; everything else is in pyproject.toml.

SANITIZE=thread, address or undefined builds them under that sanitizer (with
`build_ext --inplace --force`). Python then needs the sanitizer's runtime in LD_PRELOAD, and
for threads TSAN_OPTIONS=ignore_noninstrumented_modules=1, since Python itself has none of it.

The kernels are in the extension once for each CPU level, and one binary serves all CPUs; which
files, levels and flags stands in csrc/kernels/levels.toml. A level that this compiler does not
know is left out, and the build says so.
"""

from __future__ import annotations

import os
import platform
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from os.path import exists
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from setuptools.modified import newer_group

SANITIZERS = ("thread", "address", "undefined")

COMPILE_FLAGS = [
    "-std=c11",
    "-O3",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",  # Cython's generated functions have some
    "-Werror=implicit-function-declaration",
    "-Werror=incompatible-pointer-types",
    "-Werror=int-conversion",
    "-Werror=return-type",
    "-pthread",
]

# The plain C files of each extension; its Cython file is the name with an underscore before.
C_SOURCES = {
    "token_ring": ["token_ring"],
    "batch_queue": ["batch_queue", "deadline"],
    "native_thread": ["native_thread", "deadline"],
    "event_streams": [
        "token_ring",
        "streams/byte_buffer",
        "streams/json_escape",
        "streams/utf8",
        "streams/text_table",
        "streams/text_decoder",
        "streams/token_times",
        "streams/event_stream",
        "streams/chunked_output",
        "streams/stream_drain",
    ],
}

KERNELS = Path("csrc/kernels")
KERNEL_TABLE = KERNELS / "levels.toml"
KERNEL_BUILD = tomllib.loads(KERNEL_TABLE.read_text())

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "autotestdict": False,
}


def sanitizer_flags() -> list[str]:
    """The compiler's and linker's flags for SANITIZE."""
    sanitizer = os.environ.get("SANITIZE", "")
    if not sanitizer:
        return []
    if sanitizer not in SANITIZERS:
        raise SystemExit(f"SANITIZE must be one of {', '.join(SANITIZERS)}.")
    return [f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer", "-g"]


def extension(name: str, c_sources: list[str]) -> Extension:
    """One extension: its Cython file, the C files below it, and what they depend on."""
    headers = [f"csrc/{source}.h" for source in c_sources]
    declarations = [path for path in (f"csrc/{source}.pxd" for source in c_sources) if exists(path)]
    return Extension(
        f"realtime_serve._{name}",
        [f"csrc/_{name}.pyx", *(f"csrc/{source}.c" for source in c_sources)],
        depends=headers + declarations,
        include_dirs=["csrc"],
        extra_compile_args=COMPILE_FLAGS + sanitizer_flags(),
        extra_link_args=["-pthread", *sanitizer_flags()],
    )


def kernels_extension() -> Extension:
    """The kernels' extension without what is compiled once for each level."""
    kernels = extension("kernels", ["native_thread", "deadline"])
    kernels.sources += kernel_paths(KERNEL_BUILD["shared_sources"])
    kernels.depends += [*kernel_paths(KERNEL_BUILD["level_sources"]), *kernel_headers()]
    kernels.extra_compile_args += KERNEL_BUILD["flags"]
    return kernels


def kernel_paths(names: Iterable[str]) -> list[str]:
    """Where the kernels' sources are."""
    return [str(KERNELS / name) for name in names]


def kernel_headers() -> list[str]:
    """All that any of the kernels may depend on beside its own source."""
    return [str(KERNEL_TABLE), *sorted(map(str, KERNELS.glob("*.h")))]


class BuildExtensions(build_ext):
    """Compiles the kernels once for each CPU level and adds them to their extension.

    setuptools compiles all sources of an extension with the same flags. What a level's flags
    touch must run on CPUs of that level only, so nothing else may be compiled with them.
    """

    def build_extension(self, ext: Extension) -> None:
        """Build one extension, unless it is newer than all that it depends on."""
        if ext.name == "realtime_serve._kernels" and self._is_stale(ext):
            levels = [level for level in KERNEL_BUILD["levels"] if self._has_level(level)]
            ext.define_macros += [(f"HAVE_LEVEL_{level.upper()}", "1") for level in levels]
            ext.extra_objects += self._compile_levels(ext, levels)
        super().build_extension(ext)

    def _is_stale(self, ext: Extension) -> bool:
        path = self.get_ext_fullpath(ext.name)
        return self.force or newer_group([*ext.sources, *ext.depends], path, "newer")

    def _has_level(self, level: str) -> bool:
        """Whether this compiler knows the level's instructions; says so if it does not."""
        flags = KERNEL_BUILD["levels"][level]
        if not flags:
            return True
        if platform.machine() != "x86_64":
            return False
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "empty.c")
            source.write_text("#include <immintrin.h>\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
            except CompileError:
                self.warn(f"CPU level {level} is left out: the compiler lacks {' '.join(flags)}")
                return False
        return True

    def _compile_levels(self, ext: Extension, levels: list[str]) -> list[str]:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            objects = threads.map(lambda level: self._compile_level(ext, level), levels)
            return [path for level_objects in objects for path in level_objects]

    def _compile_level(self, ext: Extension, level: str) -> list[str]:
        return self.compiler.compile(
            kernel_paths(KERNEL_BUILD["level_sources"]),
            output_dir=os.path.join(self.build_temp, level),
            macros=[("KERNEL_LEVEL", level)],
            include_dirs=ext.include_dirs,
            extra_postargs=[*ext.extra_compile_args, *KERNEL_BUILD["levels"][level]],
        )


setup(
    ext_modules=cythonize(
        [
            *(extension(name, c_sources) for name, c_sources in C_SOURCES.items()),
            kernels_extension(),
        ],
        # Generated C stays out of csrc, where everything is written by hand.
        build_dir="build/cython",
        include_path=[".", "csrc"],
        compiler_directives=DIRECTIVES,
    ),
    cmdclass={"build_ext": BuildExtensions},
)
