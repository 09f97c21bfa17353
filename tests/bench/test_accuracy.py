"""The figures of bench/accuracy.py against transformers and torch, on tiny models."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

import accuracy
from accuracy import Divergence, Network
from realtime_serve._kernels import cpu_levels
from realtime_serve.engine.packing import PackedDType
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.native_llama import NativeShape
from realtime_serve.types import ActivationDType, KVCacheDType
from realtime_serve.weights.checkpoint import open_checkpoint
from realtime_serve.weights.packed_file import PackedWeights
from support.native_network import CONFIGS, NATIVE_SIZES, packed_sections
from support.tiny_models import random_model

FORMATS: dict[PackedDType, str] = {
    "float32": "f32",
    "bfloat16": "bf16",
    "q8": "q8",
    "q4": "q4",
}

BYTE_LLAMA = transformers.LlamaConfig(**{**NATIVE_SIZES, "vocab_size": 256})
"""Its tokens are single bytes."""


@pytest.fixture(scope="module")
def model() -> transformers.PreTrainedModel:
    return random_model(CONFIGS["llama"])


@pytest.fixture(scope="module")
def text() -> list[int]:
    """A text of two windows, the second shorter and not a multiple of a chunk."""
    length = accuracy.WINDOW_TOKENS + accuracy.CHUNK_TOKENS + 9
    tokens: list[int] = np.random.default_rng(0).integers(0, 211, length).tolist()
    return tokens


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model directory whose tokens are bytes."""
    random_model(BYTE_LLAMA).save_pretrained(tmp_path)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def network(
    model: transformers.PreTrainedModel,
    dtype: PackedDType,
    level: str = "",
    kv_cache_dtype: KVCacheDType = "auto",
    *,
    activation_dtype: ActivationDType = "auto",
) -> Network:
    config = LlamaConfig.from_hf(model.config.to_dict())
    weights: PackedWeights = packed_sections(model, FORMATS[dtype])  # type: ignore[assignment]
    shape = NativeShape.from_config(config)
    return Network(
        shape,
        weights,
        dtype,
        level or cpu_levels()[-1],
        kv_cache_dtype=kv_cache_dtype,
        activation_dtype=activation_dtype,
    )


def random_logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 4, (50, 300)).astype(np.float32)


# --- the sums -----------------------------------------------------------------


def test_figures_of_logits_are_those_that_torch_finds() -> None:
    reference, other = random_logits(0), random_logits(1)
    other[::2] = reference[::2] + other[::2] / 40
    next_tokens = np.random.default_rng(2).integers(0, 300, 50).tolist()
    found = Divergence()
    found.add(reference, other, next_tokens)
    expected, got = (torch.from_numpy(each).double() for each in (reference, other))
    kl = torch.nn.functional.kl_div(
        got.log_softmax(1), expected.log_softmax(1), log_target=True, reduction="batchmean"
    )
    surprise = torch.nn.functional.cross_entropy(got, torch.tensor(next_tokens))
    agreement = (expected.argmax(1) == got.argmax(1)).double().mean()
    assert found.mean_kl == pytest.approx(kl.item())
    assert found.perplexity == pytest.approx(surprise.exp().item())
    assert 0.2 < found.agreement < 1
    assert found.agreement == pytest.approx(agreement.item())


def test_logits_that_differ_by_a_constant_are_the_same_distribution() -> None:
    found = Divergence()
    found.add(random_logits(0), random_logits(0) + 8, [0] * 50)
    assert found.mean_kl == pytest.approx(0, abs=1e-9)
    assert found.agreement == 1


def test_a_text_in_pieces_has_the_figures_of_the_whole() -> None:
    reference, other = random_logits(0), random_logits(1)
    whole, pieces = Divergence(), Divergence()
    whole.add(reference, other, range(50))
    for piece in (slice(0, 13), slice(13, 50)):
        pieces.add(reference[piece], other[piece], range(50)[piece])
    assert pieces.num_tokens == 50
    assert pieces.mean_kl == pytest.approx(whole.mean_kl)
    assert pieces.agreement == whole.agreement
    assert pieces.perplexity == pytest.approx(whole.perplexity)


# --- the networks -------------------------------------------------------------


def test_windows_are_the_whole_text(text: Sequence[int]) -> None:
    windows = list(accuracy.windows(text))
    assert [token for window in windows for token in window] == text
    assert [len(window) for window in windows] == [512, len(text) - 512]


def test_perplexity_is_that_of_transformers_on_windows_that_know_nothing_of_each_other(
    model: transformers.PreTrainedModel, text: list[int]
) -> None:
    found = accuracy.compare(network(model, "float32"), network(model, "float32"), text)
    surprises = []
    for window in (text[:512], text[512:]):
        tokens = torch.tensor(window)
        with torch.inference_mode():
            logits = model(tokens[None]).logits[0]
        surprises.append(
            torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none")
        )
    assert found.num_tokens == len(text) - 2
    assert found.perplexity == pytest.approx(torch.cat(surprises).mean().exp().item(), rel=1e-4)


def test_float32_is_no_distance_from_itself(
    model: transformers.PreTrainedModel, text: list[int]
) -> None:
    found = accuracy.compare(network(model, "float32"), network(model, "float32"), text)
    assert found.mean_kl == 0
    assert found.agreement == 1


@pytest.mark.parametrize("level", cpu_levels())
def test_fewer_bits_are_farther_from_float32(
    model: transformers.PreTrainedModel, text: list[int], level: str
) -> None:
    reference = network(model, "float32")
    distances = [
        accuracy.compare(reference, network(model, dtype, level), text[:200]).mean_kl
        for dtype in ("float32", "bfloat16", "q8", "q4")
    ]
    assert distances == sorted(set(distances))
    assert distances[0] < 1e-6


@pytest.mark.parametrize("level", cpu_levels())
def test_fewer_bits_of_activations_are_farther_from_float32(
    model: transformers.PreTrainedModel, text: list[int], level: str
) -> None:
    reference = network(model, "float32")
    activation_dtypes: list[ActivationDType] = ["bfloat16", "int8"]
    others = [network(model, "q8", level, activation_dtype=each) for each in activation_dtypes]
    distances = [accuracy.compare(reference, other, text[:200]).mean_kl for other in others]
    assert distances == sorted(set(distances))


@pytest.mark.parametrize("level", cpu_levels())
def test_fewer_bits_of_keys_and_values_are_farther_from_float32(
    model: transformers.PreTrainedModel, text: list[int], level: str
) -> None:
    reference = network(model, "float32")
    caches: list[KVCacheDType] = ["float32", "bfloat16", "int8"]
    distances = [
        accuracy.compare(reference, network(model, "float32", level, each), text[:200]).mean_kl
        for each in caches
    ]
    assert distances == sorted(set(distances))


def test_a_step_reads_all_weights_but_the_embedding(model: transformers.PreTrainedModel) -> None:
    weights = packed_sections(model, "f32")
    values = sum(parameter.numel() for parameter in model.parameters())
    embedding = 211 * NATIVE_SIZES["hidden_size"]
    last_panel = (224 - 211) * NATIVE_SIZES["hidden_size"]  # a head fills whole panels
    found = accuracy.step_nbytes(weights)  # type: ignore[arg-type]
    assert found == 4 * (values - embedding + last_panel)


# --- the command --------------------------------------------------------------


def test_the_table_has_a_row_for_each_precision_and_level(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a text of ünequal bytes")
    levels = list(dict.fromkeys([cpu_levels()[0], cpu_levels()[-1]]))
    arguments = ["--model", str(directory), "--text", str(text), "--level", ",".join(levels)]
    assert accuracy.main(arguments) == 0
    out = capsys.readouterr().out
    assert f"{len(text.read_bytes()) - 1} tokens predicted" in out
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (\w+) \| ", out, re.MULTILINE)
    precisions = [("float32", "float32"), ("bfloat16", "bfloat16")]
    precisions += [(dtype, each) for dtype in ("q8", "q4") for each in ("bfloat16", "int8")]
    assert rows == [(*precision, level) for precision in precisions for level in levels]
    assert f"| float32 | float32 | {levels[-1]} | 1 | 0.0e+00 | 100.0% |" in out


def test_only_the_networks_to_measure_have_the_kv_cache_that_is_asked_for(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a text of a few bytes")
    arguments = ["--model", str(directory), "--text", str(text), "--kv-cache-dtype", "int8"]
    assert accuracy.main(arguments) == 0
    out = capsys.readouterr().out
    assert re.search(r"^\| float32 \| ", out, re.MULTILINE)
    assert "| 0.0e+00 |" not in out


def test_what_cannot_be_measured_is_told(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a")
    arguments = ["--model", str(directory), "--text", str(text)]
    assert accuracy.main(arguments) == 2
    assert "nothing to predict" in capsys.readouterr().err
    text.write_text("abc")
    assert accuracy.main([*arguments[:2], "--text", str(tmp_path / "none.txt")]) == 2
    assert "none.txt" in capsys.readouterr().err


def test_a_model_that_runs_on_torch_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = transformers.LlamaConfig(**{**NATIVE_SIZES, "intermediate_size": 100})
    random_model(narrow).save_pretrained(directory)
    assert accuracy.main(["--model", str(directory)]) == 2
    assert "intermediate_size (100)" in capsys.readouterr().err


def test_levels_are_the_best_all_or_some_of_those_that_the_machine_has() -> None:
    here = cpu_levels()
    assert accuracy.levels_from("best") == [here[-1]]
    assert accuracy.levels_from("all") == list(here)
    assert accuracy.levels_from(f"{here[-1]},portable") == [here[-1], "portable"]
    with pytest.raises(argparse.ArgumentTypeError, match=r"no level 'sse9'.*portable"):
        accuracy.levels_from("portable,sse9")


def test_the_text_has_enough_tokens_of_the_default_model_to_mean_something(gguf_path: str) -> None:
    text = accuracy.TEXT.read_text(encoding="utf-8")
    assert len(accuracy.encode(open_checkpoint(gguf_path), text)) >= 4200
