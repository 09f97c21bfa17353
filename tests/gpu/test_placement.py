"""Where the tensors of a step are, on a device that every machine has: torch's "meta".

It knows shapes and no numbers. Whatever would have to wait for a number fails on it, and so
what passes here makes no GPU wait for the host in the middle of a step.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from realtime_serve.engine.loader import load_llm
from realtime_serve.engine.torch_runner import TorchRunner
from realtime_serve.types import DType, ModelConfig
from support.dict_checkpoint import DictCheckpoint
from support.network import rows
from support.tiny_models import CONFIGS

META = torch.device("meta")

MIXED_STEP = [
    rows([1, 2, 3], 0, [1], True),
    rows([5], 40, [2, 3, 4], True),
    rows([5], 400, range(5, 31), True),
    rows(range(30), 300, range(31, 52), False),
]
"""A prompt, a short and a long context, and a chunk: every kind of tile."""


class MixedOperations(TorchDispatchMode):
    """Collects the operations that take tensors of several devices; copies may."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.num_on_meta = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if len(devices) > 1:
            self.names.append(str(func))
        self.num_on_meta += "meta" in devices
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_step_mixes_no_devices_and_waits_for_no_number(kind: str, dtype: DType) -> None:
    network = load_llm(DictCheckpoint(kind), ModelConfig(dtype=dtype, num_threads=1), META)
    runner = TorchRunner(network)
    runner.allocate(64)
    with MixedOperations() as mixed:
        logits = runner.forward(MIXED_STEP)
    assert mixed.names == []
    assert mixed.num_on_meta > 50, "the operations were not seen"
    assert (logits.device, logits.shape) == (META, (3, network.vocab_size))
