"""How far each dtype is from float32, on a fixed text, on the kernels that the server runs.

    python bench/accuracy.py --level all
    python bench/accuracy.py --kv-cache-dtype int8

The idea: two networks, one of them in float32, read the same text, and are asked after each
token for the whole distribution of the next one. No sampling is involved, so the figures are
exact for a text, a CPU level and a dtype. The text is cut into windows that know nothing of each
other, and a window goes through in chunks, so that memory holds the logits of one chunk only.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from outcome import PrintRow, exit_code_of
from realtime_serve._kernels import Transformer, cpu_levels, shared_compute_pool
from realtime_serve.default_model import default_model_path
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.engine.native_runner import activation_format, kv_format
from realtime_serve.engine.packing import PackedDType
from realtime_serve.engine.runner import BLOCK_SIZE, SamplingRow, ScheduledRows
from realtime_serve.errors import ModelLoadError
from realtime_serve.model_files import load_packed
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.native_llama import NativeShape, unsupported_reason
from realtime_serve.text.model import load_gguf_text, load_hf_text
from realtime_serve.types import (
    KV_CACHE_DTYPES,
    NO_CACHE_DIR,
    ActivationDType,
    KVCacheDType,
    SamplingParams,
)
from realtime_serve.weights.checkpoint import Checkpoint, open_checkpoint
from realtime_serve.weights.packed_file import PackedWeights

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

TEXT = Path(__file__).parent / "accuracy_text.txt"

WINDOW_TOKENS = 512
"""Tokens of one sequence: long enough for attention to matter, short enough for any model."""

CHUNK_TOKENS = 64
"""Tokens of one step. With a vocabulary of 49,152, their logits are 12.6 MB of each network."""

DTYPES: Sequence[PackedDType] = get_args(PackedDType)

ACTIVATION_DTYPES: dict[PackedDType, Sequence[ActivationDType]] = {
    "q8": ("bfloat16", "int8"),
    "q4": ("bfloat16", "int8"),
}
"""Where there is a choice."""

REFERENCE: PackedDType = "float32"

HEADER = (
    "| dtype | activations | CPU level | weights read a step, MB | KL from float32, nats a token "
    "| same most likely token | perplexity |\n|---|---|---|---:|---:|---:|---:|"
)


# --- the networks -------------------------------------------------------------


class Network:
    """A network that reads one window after the other.

    Args:
        shape: Its sizes.
        weights: Packed for `dtype`.
        dtype: Its arithmetic.
        level: The CPU level of its kernels.
        kv_cache_dtype: What its keys and values are kept in; "auto" is as the server has it.
        activation_dtype: What quantised weights are multiplied with; likewise.
    """

    def __init__(
        self,
        shape: NativeShape,
        weights: PackedWeights,
        dtype: PackedDType,
        level: str,
        *,
        kv_cache_dtype: KVCacheDType = "auto",
        activation_dtype: ActivationDType = "auto",
    ) -> None:
        pool = shared_compute_pool()
        self._vocab_size = shape.vocab_size
        self._transformer = Transformer(
            shape,
            weights,
            pool,
            level=level,
            num_threads=pool.num_threads,
            max_rows=CHUNK_TOKENS,
            max_outputs=CHUNK_TOKENS,
            activations=activation_format(activation_dtype, level),
        )
        self._transformer.allocate_kv_cache(kv_format(dtype, kv_cache_dtype), len(_BLOCK_TABLE))

    def logits(self, chunk: Sequence[int], start_position: int) -> Floats:
        """What may come after each token of a chunk.

        Args:
            chunk: At most CHUNK_TOKENS tokens of a window.
            start_position: Where it begins in the window; what is before it was read before.

        Returns:
            [tokens, vocab_size].
        """
        logits = np.empty((len(chunk), self._vocab_size), np.float32)
        work = ScheduledRows(chunk, start_position, _BLOCK_TABLE, [_WANTED] * len(chunk))
        self._transformer.forward([work], logits)
        return logits


_BLOCK_TABLE = range(WINDOW_TOKENS // BLOCK_SIZE)
"""Each window overwrites the last one's keys and values."""

_WANTED = SamplingRow(SamplingParams(), seed=0, output_index=0)
"""Asks for a row's logits; nothing is sampled from them."""


# --- the figures --------------------------------------------------------------


@dataclass(slots=True)
class Divergence:
    """Sums over tokens that were predicted twice, by float32 and by another network.

    Args:
        num_tokens: How many.
        kl: KL(float32 || the other), in nats.
        num_agreements: How often both find the same token most likely.
        surprise: -log of the probability that the other gave to the token that came, in nats.
    """

    num_tokens: int = 0
    kl: float = 0.0
    num_agreements: int = 0
    surprise: float = 0.0

    def add(self, reference: Floats, logits: Floats, next_tokens: Sequence[int]) -> None:
        """Take in some tokens.

        Args:
            reference: Logits in float32, [tokens, vocab_size].
            logits: Those of the other network.
            next_tokens: What came after each.
        """
        expected, found = _log_probabilities(reference), _log_probabilities(logits)
        self.num_tokens += len(next_tokens)
        self.kl += float((np.exp(expected) * (expected - found)).sum())
        self.num_agreements += int((reference.argmax(axis=1) == logits.argmax(axis=1)).sum())
        self.surprise -= float(found[np.arange(len(next_tokens)), next_tokens].sum())

    @property
    def mean_kl(self) -> float:
        """Nats a token."""
        return self.kl / self.num_tokens

    @property
    def agreement(self) -> float:
        """Share of tokens, up to 1."""
        return self.num_agreements / self.num_tokens

    @property
    def perplexity(self) -> float:
        """Of the other network: as if it chose between so many tokens each time."""
        return math.exp(self.surprise / self.num_tokens)


def _log_probabilities(logits: Floats) -> Doubles:
    """In float64: differences of 1e-5 are to be seen in sums over the whole vocabulary."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def compare(reference: Network, other: Network, token_ids: Sequence[int]) -> Divergence:
    """Let two networks read a text.

    Args:
        reference: In float32.
        other: In whatever is to be judged.
        token_ids: The text, at least two tokens.

    Returns:
        How they differ over all tokens that have one before them in their window.
    """
    divergence = Divergence()
    for window in windows(token_ids):
        for start in range(0, len(window) - 1, CHUNK_TOKENS):
            chunk = window[start : min(start + CHUNK_TOKENS, len(window) - 1)]
            next_tokens = window[start + 1 : start + 1 + len(chunk)]
            divergence.add(reference.logits(chunk, start), other.logits(chunk, start), next_tokens)
    return divergence


def windows(token_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut a text into sequences of WINDOW_TOKENS and a shorter last one."""
    for start in range(0, len(token_ids), WINDOW_TOKENS):
        yield token_ids[start : start + WINDOW_TOKENS]


# --- the command --------------------------------------------------------------


def measure(
    checkpoint: Checkpoint,
    token_ids: Sequence[int],
    levels: Sequence[str],
    kv_cache_dtype: KVCacheDType,
) -> Iterator[str]:
    """The rows of the table, each when it is known.

    Args:
        checkpoint: The model. It is packed anew, and nothing of it is kept.
        token_ids: The text.
        levels: CPU levels to measure; the reference runs on the best one there is.
        kv_cache_dtype: Of the networks to measure; the reference has its own.

    Raises:
        ModelLoadError: The model cannot be used.
    """
    llama = LlamaConfig.from_hf(checkpoint.config)
    reason = unsupported_reason(llama)
    if reason is not None:
        raise ModelLoadError(
            f"{checkpoint.path} runs on torch, which has no such dtypes: {reason}."
        )
    shape = NativeShape.from_config(llama)
    exact = _pack(checkpoint, REFERENCE)
    reference = Network(shape, exact, REFERENCE, cpu_levels()[-1])
    for dtype in DTYPES:
        weights = exact if dtype == REFERENCE else _pack(checkpoint, dtype)
        for activation_dtype in ACTIVATION_DTYPES.get(dtype, ("auto",)):
            for level in levels:
                other = Network(
                    shape,
                    weights,
                    dtype,
                    level,
                    kv_cache_dtype=kv_cache_dtype,
                    activation_dtype=activation_dtype,
                )
                divergence = compare(reference, other, token_ids)
                yield row(dtype, activation_dtype, level, weights, divergence)


def _pack(checkpoint: Checkpoint, dtype: PackedDType) -> PackedWeights:
    return load_packed(checkpoint, dtype, NO_CACHE_DIR, LoadWatcher())


def row(
    dtype: str,
    activation_dtype: str,
    level: str,
    weights: PackedWeights,
    divergence: Divergence,
) -> str:
    """One row of the table, in Markdown.

    Args:
        dtype: The arithmetic.
        activation_dtype: What the weights were multiplied with; "auto" where it is the dtype.
        level: The CPU level.
        weights: Packed for that arithmetic.
        divergence: What came out.
    """
    activations = dtype if activation_dtype == "auto" else activation_dtype
    megabytes = step_nbytes(weights) / 1e6
    return (
        f"| {dtype} | {activations} | {level} | {megabytes:.0f} | {divergence.mean_kl:.1e} "
        f"| {divergence.agreement:.1%} | {divergence.perplexity:.3f} |"
    )


def step_nbytes(weights: PackedWeights) -> int:
    """Bytes of weights that a step reads: all but the embedding, of which it looks up rows."""
    return sum(section.data.nbytes for name, section in weights.items() if name != "embedding")


def encode(checkpoint: Checkpoint, text: str) -> list[int]:
    """The tokens of a text in a model's vocabulary.

    Raises:
        ModelLoadError: The vocabulary cannot be used.
    """
    metadata = checkpoint.tokenizer_metadata
    model = load_hf_text(checkpoint.path) if metadata is None else load_gguf_text(metadata)
    return model.tokenizer.encode(text)


def levels_from(text: str) -> list[str]:
    """The CPU levels that an argument names.

    Args:
        text: "best", "all", or names with commas between them.

    Raises:
        ArgumentTypeError: This machine has no such level.
    """
    here = cpu_levels()
    levels = {"best": here[-1:], "all": here}.get(text) or text.split(",")
    for level in levels:
        if level not in here:
            raise argparse.ArgumentTypeError(
                f"this machine has no level {level!r}: name best, all, or some of {','.join(here)}"
            )
    return list(levels)


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description="How far each dtype is from float32 on a fixed text."
    )
    parser.add_argument("--model", help="GGUF file or directory (default: the default model)")
    parser.add_argument("--text", type=Path, default=TEXT, help="UTF-8 (default: %(default)s)")
    parser.add_argument(
        "--level",
        "--levels",
        dest="levels",
        type=levels_from,
        default="best",
        help="CPU levels: best, all, or a list (default: %(default)s)",
    )
    parser.add_argument(
        "--kv-cache-dtype",
        choices=KV_CACHE_DTYPES,
        default="auto",
        help="what keys and values are kept in (default: as the server does beside each dtype)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; the process's own when None.

    Returns:
        The exit code: see `exit_code_of`.
    """
    args = argument_parser().parse_args(argv)
    return exit_code_of(partial(print_table, args))


def print_table(args: argparse.Namespace, print_row: PrintRow) -> None:
    """Open the model, measure, and print the rows as they come.

    Raises:
        ServeError: The model cannot be used.
        OSError: The text cannot be read.
        ValueError: There is no text, or it is not UTF-8.
    """
    checkpoint = open_checkpoint(args.model or default_model_path())
    token_ids = encode(checkpoint, args.text.read_text(encoding="utf-8"))
    num_predicted = sum(len(window) - 1 for window in windows(token_ids))
    if num_predicted == 0:
        raise ValueError(f"{args.text} has no two tokens, so there is nothing to predict")
    print(
        f"{checkpoint.name} on {args.text.name}: {num_predicted} tokens predicted, in windows "
        f"of {WINDOW_TOKENS}; float32 is that of level {cpu_levels()[-1]}.\n\n{HEADER}"
    )
    for line in measure(checkpoint, token_ids, args.levels, args.kv_cache_dtype):
        print_row(line)


if __name__ == "__main__":
    sys.exit(main())
