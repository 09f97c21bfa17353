"""Which device networks in torch run on, and what it has left."""

from __future__ import annotations

import pytest
import torch

from realtime_serve.engine.host_memory import host_memory
from realtime_serve.engine.torch_device import (
    CPU,
    CUDA,
    CudaSupport,
    device_memory,
    require_cuda,
)
from realtime_serve.errors import ConfigError


def test_a_gpu_that_torch_can_use_is_taken() -> None:
    assert require_cuda(CudaSupport("2.13.0", "13.0", num_devices=1)) == CUDA


@pytest.mark.parametrize(
    ("support", "found", "advice"),
    [
        (
            CudaSupport("2.13.0+cpu", None, 0),
            r"torch 2\.13\.0\+cpu was built without CUDA",
            "install a build of torch for CUDA",
        ),
        (
            CudaSupport("2.13.0", "13.0", 0),
            r"torch 2\.13\.0 \(CUDA 13\.0\) sees no GPU",
            "nvidia-smi and CUDA_VISIBLE_DEVICES",
        ),
    ],
)
def test_without_a_gpu_the_error_says_what_was_found_and_what_to_do(
    support: CudaSupport, found: str, advice: str
) -> None:
    with pytest.raises(ConfigError, match=f"{found}: .*{advice}, or set device to cpu") as caught:
        require_cuda(support)
    assert caught.value.param == "device"


def test_what_this_process_finds_is_what_torch_says() -> None:
    support = CudaSupport.of_this_process()
    assert support.torch_version == torch.__version__
    assert (support.missing is None) == torch.cuda.is_available()


def test_a_cpus_memory_is_the_hosts() -> None:
    assert device_memory(CPU) == pytest.approx(host_memory(), rel=0.2)
