"""The C extensions and how they are compiled; everything else is in pyproject.toml.

SANITIZE=thread, address or undefined builds them under that sanitizer (with
`build_ext --inplace --force`). Python then needs the sanitizer's runtime in LD_PRELOAD, and
for threads TSAN_OPTIONS=ignore_noninstrumented_modules=1, since Python itself has none of it.
"""

from __future__ import annotations

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

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
}

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
    declarations = [f"csrc/{source}.pxd" for source in c_sources]
    return Extension(
        f"realtime_serve._{name}",
        [f"csrc/_{name}.pyx", *(f"csrc/{source}.c" for source in c_sources)],
        depends=headers + declarations,
        include_dirs=["csrc"],
        extra_compile_args=COMPILE_FLAGS + sanitizer_flags(),
        extra_link_args=["-pthread", *sanitizer_flags()],
    )


setup(
    ext_modules=cythonize(
        [extension(name, c_sources) for name, c_sources in C_SOURCES.items()],
        # Generated C stays out of csrc, where everything is written by hand.
        build_dir="build/cython",
        include_path=[".", "csrc"],
        compiler_directives=DIRECTIVES,
    )
)
