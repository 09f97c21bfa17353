from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from realtime_serve.engine.loader import choose_dtype, load_llm
from realtime_serve.errors import ConfigError, ModelLoadError
from realtime_serve.types import DType, ModelConfig
from support.dict_checkpoint import DictCheckpoint
from support.network import Network, load
from support.tiny_models import CONFIGS, random_model, write_gguf

FLOAT32 = ModelConfig(dtype="float32", num_threads=1)

LOAD_DEFAULT_MODEL = """
import sys
from pathlib import Path
from realtime_serve.engine.loader import load_llm
from realtime_serve.types import ModelConfig
from realtime_serve.weights import open_checkpoint
model = load_llm(open_checkpoint(sys.argv[1]), ModelConfig(dtype="bfloat16", num_threads=1))
assert model.num_layers == 30
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("kind", ["llama", "llama, tied", "llama, llama3 rope", "qwen2", "qwen3"])
def test_a_gguf_file_and_a_directory_give_the_same_network(kind: str, tmp_path: Path) -> None:
    model = random_model(kind)
    model.save_pretrained(tmp_path / "directory")
    write_gguf(model, tmp_path / "model.gguf")
    prompt = list(range(1, 200))
    torch.testing.assert_close(
        Network(load(tmp_path / "model.gguf")).last_logits(prompt),
        Network(load(tmp_path / "directory")).last_logits(prompt),
        atol=1e-4,
        rtol=1e-4,
    )


def test_the_network_says_its_shapes() -> None:
    model = load_llm(DictCheckpoint("qwen3"), FLOAT32)
    config = CONFIGS["qwen3"]
    assert model.vocab_size == config.vocab_size
    assert model.num_layers == config.num_hidden_layers
    assert model.num_kv_heads == config.num_key_value_heads
    assert model.head_dim == config.head_dim
    assert model.max_model_len == config.max_position_embeddings
    assert model.dtype == torch.float32
    assert model.device == torch.device("cpu")


def test_a_configured_dtype_is_taken() -> None:
    assert choose_dtype("float32") == torch.float32
    assert choose_dtype("bfloat16") == torch.bfloat16


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads an x86 CPU's flags")
def test_auto_is_bfloat16_only_where_the_cpu_computes_in_it() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    native = "avx512_bf16" in flags or "amx_bf16" in flags
    assert choose_dtype("auto") == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("dtype", ["q8", "q4"])
def test_a_dtype_of_the_native_path_is_refused_by_torch(dtype: DType) -> None:
    with pytest.raises(ModelLoadError, match=f"'{dtype}' runs only on the native CPU path"):
        choose_dtype(dtype)


def test_loading_can_be_ended_between_two_tensors() -> None:
    class EnoughError(Exception):
        pass

    class Counted(DictCheckpoint):
        num_read = 0

        def tensor(self, name: str) -> Tensor:
            self.num_read += 1
            return super().tensor(name)

    def end_before_the_fourth() -> None:
        if checkpoint.num_read == 3:
            raise EnoughError

    checkpoint = Counted()
    with pytest.raises(EnoughError):
        load_llm(checkpoint, FLOAT32, before_tensor=end_before_the_fourth)
    assert checkpoint.num_read == 3


def test_a_step_gets_the_configured_threads() -> None:
    load_llm(DictCheckpoint(), ModelConfig(dtype="float32", num_threads=1))
    assert torch.get_num_threads() == 1


def test_without_configuration_a_step_gets_the_cpus_of_the_process() -> None:
    load_llm(DictCheckpoint(), ModelConfig(dtype="float32"))
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))


def test_a_shorter_context_may_be_configured() -> None:
    config = ModelConfig(dtype="float32", num_threads=1, max_model_len=100)
    assert load_llm(DictCheckpoint(), config).max_model_len == 100


def test_a_longer_context_than_the_models_is_refused() -> None:
    config = ModelConfig(dtype="float32", num_threads=1, max_model_len=513)
    with pytest.raises(ConfigError, match=r"max_model_len \(513\) must be at most 512") as refused:
        load_llm(DictCheckpoint(), config)
    assert refused.value.param == "max_model_len"


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.bias",
        "model.layers.0.mlp.down_proj.weight",
    ],
)
def test_a_missing_tensor_is_named(name: str) -> None:
    checkpoint = DictCheckpoint("qwen2")
    del checkpoint.tensors[name]
    with pytest.raises(ModelLoadError, match=f"has no tensor {name}"):
        load_llm(checkpoint, FLOAT32)


def test_a_wrong_shape_is_named_with_the_right_one() -> None:
    checkpoint = DictCheckpoint()
    checkpoint.tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(95, 64)
    with pytest.raises(ModelLoadError, match=r"up_proj.weight has the shape \[95, 64\].*\[96, 64"):
        load_llm(checkpoint, FLOAT32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    checkpoint = DictCheckpoint()
    checkpoint.tensors["model.layers.1.mlp.up_proj.weight"][7, 7] = value
    with pytest.raises(ModelLoadError, match=r"up_proj\.weight holds values that are not finite"):
        load_llm(checkpoint, FLOAT32)


def test_a_tensor_without_a_place_is_refused() -> None:
    checkpoint = DictCheckpoint()
    checkpoint.tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)
    with pytest.raises(ModelLoadError, match=r"1 tensors that this network has no place for"):
        load_llm(checkpoint, FLOAT32)


def test_stored_rotary_frequencies_are_no_weights() -> None:
    checkpoint = DictCheckpoint()
    checkpoint.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    load_llm(checkpoint, FLOAT32)
    assert checkpoint.notices == []


def test_a_head_beside_a_tied_embedding_is_ignored_and_said_so() -> None:
    checkpoint = DictCheckpoint("llama, tied")
    checkpoint.tensors["lm_head.weight"] = torch.full((211, 64), 3.0)
    model = load_llm(checkpoint, FLOAT32)
    expected = load_llm(DictCheckpoint("llama, tied"), FLOAT32)
    assert torch.equal(Network(model).last_logits([1, 2]), Network(expected).last_logits([1, 2]))
    assert any("lm_head.weight is ignored" in notice for notice in checkpoint.notices)


def test_loading_leaves_the_checkpoint_as_it_was() -> None:
    checkpoint = DictCheckpoint()
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    model = load_llm(checkpoint, FLOAT32)
    Network(model).last_logits([1, 2, 3])
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(tensor, before[name]), name


def test_loading_the_default_model_stays_below_its_share_of_memory(gguf_path: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", LOAD_DEFAULT_MODEL, gguf_path],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    _, peak, unit = finished.stdout.split()
    assert unit == "kB"
    assert int(peak) * 1024 < 1.2 * 2**30
