"""The kernels of the network: weights into panels, a transformer's steps, the sampler.

One idea: a step is one call into C that holds no lock of Python's, on the kernels of the best
CPU level that the machine has. The headers in csrc/kernels say how each part works.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, final

import numpy.typing as npt
from typing_extensions import Buffer

_Memory: TypeAlias = Buffer | npt.NDArray[Any]

def cpu_levels() -> tuple[str, ...]:
    """The CPU levels that this machine and this build have, the best one last.

    Returns:
        Some of "portable", "avx2", "avx512", "avx512_bf16" and "amx".
    """

def packed_nbytes(format: str, num_columns: int, depth: int) -> int:
    """Bytes that a packed matrix takes.

    Args:
        format: "f32", "bf16", "q8" or "q4".
        num_columns: Outputs.
        depth: Inputs.

    Raises:
        ValueError: There is no such format, the depth is not a multiple of 32, or a size is not
            positive or too large.
    """

def pack(
    format: str,
    source: _Memory,
    num_columns: int,
    depth: int,
    out: _Memory,
    *,
    stored: str = "f32",
    panel_stride: int = 1,
) -> None:
    """Pack a weight matrix into panels of 32 outputs. Releases the GIL.

    Args:
        format: "f32", "bf16", "q8" or "q4"; floats are rounded or quantised to it.
        source: The rows of the matrix, one an output, without gaps.
        num_columns: Outputs.
        depth: Inputs, a multiple of 32.
        out: Where the first panel goes; aligned to 64 bytes.
        stored: What `source` holds: "f32", or codes that are taken over unchanged: "Q8_0" into
            "q8", "Q4_0" and "Q4_1" into "q4".
        panel_stride: Distance between panels; 2 leaves room for another matrix's between them.

    Raises:
        ValueError: The formats do not go together, or a buffer is of the wrong size.
    """

@final
class ComputePool:
    """The threads that share the phases of a step; `shared_compute_pool` has the usual one.

    Args:
        num_threads: Threads, that of the caller of a step included.

    Raises:
        ValueError: num_threads is not 1 to 65535.
        MemoryError: The threads could not be started.
    """

    def __init__(self, num_threads: int) -> None: ...
    @property
    def num_threads(self) -> int:
        """As given."""

def shared_compute_pool() -> ComputePool:
    """The pool of this process, with a thread for each CPU that the process may use.

    Made at the first call; in a forked child, made anew. Any thread.

    Raises:
        MemoryError: The threads could not be started.
    """

def kv_block_nbytes(format: str, shape: _Shape) -> int:
    """Bytes that a block of the KV cache takes in all layers together.

    Args:
        format: "f32", "bf16" or "int8".
        shape: The network's.

    Raises:
        ValueError: There is no such format, or a size does not fit.
    """

class _Shape(Protocol):
    """What a Transformer has to know beside its weights; attributes as in LlamaConfig."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def rms_norm_eps(self) -> float: ...
    @property
    def rotary_scale(self) -> float: ...
    @property
    def rotary_frequencies(self) -> Sequence[float]: ...

class _Section(Protocol):
    """One packed matrix, or one array of float32."""

    @property
    def format(self) -> str: ...
    @property
    def data(self) -> _Memory: ...

class _SamplingParams(Protocol):
    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...

class _SamplingRow(Protocol):
    @property
    def params(self) -> _SamplingParams: ...
    @property
    def seed(self) -> int: ...
    @property
    def output_index(self) -> int: ...
    @property
    def banned_token_ids(self) -> Collection[int]: ...

class _ScheduledRows(Protocol):
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def start_position(self) -> int: ...
    @property
    def block_table(self) -> Sequence[int]: ...
    @property
    def samples(self) -> Sequence[_SamplingRow]: ...

@final
class Transformer:
    """A Llama-like network with its KV cache. One thread owns it.

    Args:
        shape: Its sizes; widths are multiples of 32.
        sections: Its weights, by the names of csrc/kernels/transformer.h: "embedding",
            "layers.0.attention_norm", "layers.0.qkv" and so on, "final_norm", "head". Borrowed:
            nothing is copied, and the buffers must not change. Matrices begin at a multiple of
            64 bytes.
        pool: Shares the phases of a step out; held during a step only.
        level: One of `cpu_levels()`.
        num_threads: Threads of a step, at most the pool's.
        max_rows: Most tokens of a step, at least 1.
        max_outputs: Most tokens that a step chooses, at least 0.
        activations: "int8" or "bf16": what rows are rounded to before they are multiplied
            with "q8" and "q4" weights.

    Raises:
        ValueError: A size or a number does not fit, or a section is not as the shape asks for.
        KeyError: A section is missing.
        MemoryError: There is no memory for the buffers.
    """

    def __init__(
        self,
        shape: _Shape,
        sections: Mapping[str, _Section],
        pool: ComputePool,
        *,
        level: str,
        num_threads: int,
        max_rows: int,
        max_outputs: int,
        activations: str = "int8",
    ) -> None: ...
    def allocate_kv_cache(self, format: str, num_blocks: int) -> None:
        """Make the KV cache; once, but again after a failure.

        Memory is used by segments of 64 blocks as they are first written, since it comes in
        large pages.

        Args:
            format: "f32", "bf16" or "int8".
            num_blocks: Blocks of 16 tokens.

        Raises:
            RuntimeError: It is there already.
            ValueError: There is no such format, or num_blocks is less than 1.
            MemoryError: There is no address space for it.
        """

    def copy_kv_block(self, source: int, destination: int) -> None:
        """Copy the keys and values of a block in all layers.

        Raises:
            ValueError: There is no such block.
        """

    def run(self, work: Iterable[_ScheduledRows]) -> list[tuple[int, float] | None]:
        """Compute a step and choose tokens. Releases the GIL but for the conversions.

        Args:
            work: Of each sequence, as `engine.runner.ScheduledRows`; gone through once. Token
                ids and block tables are fastest as array('i'), which must not change meanwhile.

        Returns:
            Token id and log-probability of each sample, in order; None where no token could be
            chosen.

        Raises:
            ValueError: The work does not fit the step, the vocabulary or the KV cache.
        """

    def forward(self, work: Iterable[_ScheduledRows], logits: _Memory) -> None:
        """Compute a step up to the logits.

        Args:
            work: As for `run`.
            logits: float32, [number of samples, vocab_size]; overwritten.

        Raises:
            ValueError: As for `run`, or the logits have another shape.
        """

def sample_rows(
    logits: _Memory,
    rows: Iterable[_SamplingRow],
    *,
    level: str,
    allowed: _Memory | None = None,
) -> list[tuple[int, float] | None]:
    """Choose a token for each row of logits. Releases the GIL but for the conversions.

    Args:
        logits: float32, [rows, vocab_size]; may be overwritten.
        rows: How to choose, as `engine.runner.SamplingRow`; gone through once.
        level: One of `cpu_levels()`.
        allowed: uint32, [rows, words]; bit i % 32 of word i / 32 says whether token i may be
            chosen.

    Returns:
        Token id and log-probability of each; None if the row's logits hold NaN or plus infinity,
        or if no token that may be chosen has a finite logit.

    Raises:
        ValueError: There is no such level, or a size is wrong.
    """
