"""Where networks in torch run: the device by the name of the settings, and what it has free."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch

from realtime_serve.engine.host_memory import DeviceMemory, host_memory
from realtime_serve.errors import ConfigError

CPU = torch.device("cpu")

CUDA = torch.device("cuda")
"""The current GPU, which is the first one that CUDA_VISIBLE_DEVICES shows."""


class CudaSupport(NamedTuple):
    """What torch says about GPUs here.

    Args:
        torch_version: Which torch it is.
        cuda_version: What it was built for; None if for no GPU.
        num_devices: GPUs that it can use.
    """

    torch_version: str
    cuda_version: str | None
    num_devices: int

    @classmethod
    def of_this_process(cls) -> Self:
        """Ask torch; starts no context on a GPU."""
        built_for = torch.version.cuda or torch.version.hip
        # Counting alone also counts GPUs that the driver is too old for.
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(torch.__version__, built_for, num_devices)

    @property
    def missing(self) -> str | None:
        """What keeps this process from a GPU, as a sentence without its full stop; or None."""
        if self.cuda_version is None:
            return f"torch {self.torch_version} was built without CUDA"
        if self.num_devices == 0:
            return f"torch {self.torch_version} (CUDA {self.cuda_version}) sees no GPU"
        return None


def require_cuda(support: CudaSupport) -> torch.device:
    """The GPU to run on.

    Args:
        support: What there is.

    Returns:
        The device.

    Raises:
        ConfigError: There is none; says what was found and what to do.
    """
    if support.missing is None:
        return CUDA
    advice = (
        "install a build of torch for CUDA"
        if support.cuda_version is None
        else "look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    )
    raise ConfigError(
        f"device is 'cuda', but {support.missing}: {advice}, or set device to cpu.", param="device"
    )


def device_memory(device: torch.device) -> DeviceMemory:
    """Measure the memory of a device.

    Args:
        device: Which one.

    Returns:
        What all its users together have, and have left; torch's own reserve there is given up
        first.
    """
    if device.type == "cpu":
        return host_memory()
    torch.cuda.empty_cache()  # what loading took for a moment counts as used until then
    free, total = torch.cuda.mem_get_info(device)
    return DeviceMemory(free, total, torch.cuda.memory_reserved(device))
