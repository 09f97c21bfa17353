"""What the tests of networks in torch on a device share: the device, CPU or GPU.

Each test runs on the CPU first, so that it is known to work where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from realtime_serve.engine.torch_device import CPU, CUDA, CudaSupport


def require_gpu() -> torch.device:
    """The GPU; skips the test where there is none, with the reason."""
    missing = CudaSupport.of_this_process().missing
    if missing is not None:
        pytest.skip(f"no CUDA device: {missing}")
    return CUDA


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn."""
    return CPU if request.param == "cpu" else require_gpu()


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    """The GPU, for what a CPU does otherwise."""
    return require_gpu()


@pytest.fixture(scope="module", autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    """Loading a network sets them."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)
