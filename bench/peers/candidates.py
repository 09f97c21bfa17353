"""Who is compared: each server at each precision, and the command that starts it at its best.

All have the same seats (MAX_STREAMS) and the same memory for their KV caches (KV_CACHE_GIB,
which holds MAX_STREAMS of the longest sequences that a scenario asks for), and two threads or
as many as there are CPUs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from peers.environments import Environments, default_gguf
from peers.processes import Launch

MAX_STREAMS = 64

MAX_SEQUENCE_TOKENS = 704
"""Longest prompt and answer of any scenario, 512 + 128, and some to spare."""

KV_CACHE_GIB = 1
"""What MAX_STREAMS x MAX_SEQUENCE_TOKENS tokens take in 16 bits; vLLM counts in whole GiB."""

SIXTEEN_BIT = frozenset({"bfloat16", "bf16"})
"""The precisions that are compared as equals; the others are each server's own."""

OURS = "realtime-serve"

OUR_PRECISIONS = ("bfloat16", "q8", "q4", "q4-int8")
"""A dtype, and after it what else is set: words of OUR_VARIANTS."""

OUR_OTHER_PRECISIONS = (
    *("bfloat16-kv8", "q8-bf16", "q8-int8", "q8-kv8", "q8-int8-kv8"),
    *("q4-bf16", "q4-kv8", "q4-int8-kv8"),
)
"""Measured only if they are named: each more makes a run longer."""

OUR_VARIANTS = {
    "bf16": ("ACTIVATION_DTYPE", "bfloat16"),
    "int8": ("ACTIVATION_DTYPE", "int8"),
    "kv8": ("KV_CACHE_DTYPE", "int8"),
}
"""Which setting each word changes from its default, and to what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One server at one precision.

    Args:
        product: The server.
        precision: As that server calls it.
        files: Must be there; setup_peers.py makes them.
        launch: How to start it on a port.
        by_default: Whether it is measured where no candidates are named.
    """

    product: str
    precision: str
    files: tuple[Path, ...]
    launch: Callable[[int], Launch]
    by_default: bool = True

    @property
    def name(self) -> str:
        """Product and precision, as tables and --candidates spell them."""
        return f"{self.product}:{self.precision}"

    def missing(self) -> list[Path]:
        """The files that are not there."""
        return [path for path in self.files if not path.exists()]


def all_candidates(environments: Environments) -> dict[str, Candidate]:
    """Every candidate by its name, this server's first."""
    candidates = [
        *our_candidates(),
        _vllm(environments, "bf16", "hf-bf16"),
        _vllm(environments, "w8a8", "hf-w8a8"),
        _vllm(environments, "w4a16", "hf-w4a16"),
        _llama_cpp(environments, "bf16", environments.model("bf16.gguf")),
        _llama_cpp(environments, "q8_0", environments.model("q8_0.gguf")),
        _llama_cpp(environments, "q4_1", default_gguf()),
        _llama_cpp(environments, "q4_0", environments.model("q4_0.gguf")),
    ]
    return {each.name: each for each in candidates}


def our_candidates() -> list[Candidate]:
    """This server at each of its precisions."""
    others = [replace(_ours(precision), by_default=False) for precision in OUR_OTHER_PRECISIONS]
    return [*(_ours(precision) for precision in OUR_PRECISIONS), *others]


def num_cpus() -> int:
    """CPUs that this process, and so each server, may use."""
    return len(os.sched_getaffinity(0))


def _ours(precision: str) -> Candidate:
    dtype, *variants = precision.split("-")
    settings = {
        **{"DTYPE": dtype, "ACTIVATION_DTYPE": "auto", "KV_CACHE_DTYPE": "auto"},
        **dict(OUR_VARIANTS[each] for each in variants),
    }

    def launch(port: int) -> Launch:
        return Launch(
            command=[
                *(sys.executable, "-m", "gunicorn", "--worker-class=gevent"),
                *("--no-control-socket", f"--bind=127.0.0.1:{port}", "realtime_serve.wsgi:app"),
            ],
            environ={
                **{f"REALTIME_SERVE_{name}": value for name, value in settings.items()},
                "REALTIME_SERVE_KV_CACHE_BYTES": f"{KV_CACHE_GIB}GiB",
                "REALTIME_SERVE_MAX_NUM_SEQS": str(MAX_STREAMS),
                # The answers to prompts of random words soon repeat themselves: guessing would
                # get most of them right, and the comparison wrong.
                "REALTIME_SERVE_NUM_SPECULATIVE_TOKENS": "0",
            },
            ready_path="/health/ready",
        )

    return Candidate(product=OURS, precision=precision, files=(), launch=launch)


def _vllm(environments: Environments, precision: str, model: str) -> Candidate:
    directory = environments.model(model)

    def launch(port: int) -> Launch:
        return Launch(
            command=[
                *(str(environments.vllm_python), "-m", "vllm.entrypoints.openai.api_server"),
                *("--host", "127.0.0.1", "--port", str(port), "--model", str(directory)),
                *("--dtype", "bfloat16", "--max-model-len", "2048"),
                # A share of the machine's memory that it refuses to start without.
                *("--gpu-memory-utilization", "0.5"),
                *("--disable-log-stats", "--uvicorn-log-level", "warning"),
            ],
            environ={
                "LD_PRELOAD": ":".join(map(str, environments.preloads())),
                "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{num_cpus() - 1}",
                "VLLM_NO_USAGE_STATS": "1",
                "HF_HUB_OFFLINE": "1",
            },
            ready_path="/health",
        )

    files = (environments.vllm_python, directory)
    return Candidate(product="vllm", precision=precision, files=files, launch=launch)


def _llama_cpp(environments: Environments, precision: str, model: Path) -> Candidate:
    def launch(port: int) -> Launch:
        return Launch(
            command=[
                *(str(environments.llama_server), "--model", str(model)),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--threads", str(num_cpus()), "--parallel", str(MAX_STREAMS)),
                *("--ctx-size", str(MAX_STREAMS * MAX_SEQUENCE_TOKENS)),
                # No copies of prompts that are over: they cost time and gigabytes, and no
                # prompt comes back. What slots hold is still reused.
                *("--cache-ram", "0", "--no-ui"),
            ],
            environ={},
            ready_path="/health",
        )

    files = (environments.llama_server, model)
    return Candidate(product="llama.cpp", precision=precision, files=files, launch=launch)
