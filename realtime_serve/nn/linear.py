"""Linear layers, with weights packed once by oneDNN where that is faster.

On a CPU, oneDNN rearranges a weight matrix into the panels that its kernels read; that
halves the time of a decode step against `F.linear`, and the activation and product of a
gated layer become the end of the matrix product. Where that is not to be had (another
device, a CPU without the instructions, a torch without oneDNN) the same layer is
`F.linear`. Which one it is gets decided by a trial, once per dtype.
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own custom
from torch import Tensor


class Layer(Protocol):
    """A function of rows."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Map [num_rows, num_inputs] to [num_rows, num_outputs]."""
        ...


def linear(weight: Tensor, bias: Tensor | None = None) -> Layer:
    """The layer rows @ weight.T + bias.

    Args:
        weight: [num_outputs, num_inputs]; may be freed by the caller afterwards.
        bias: [num_outputs].

    Returns:
        The layer.
    """
    if can_pack(weight.device, weight.dtype):
        return _PackedLinear(weight, bias)
    return _PlainLinear(weight, bias)


def gated_linear(
    gate: Tensor,
    up: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
) -> Layer:
    """The layer silu(rows @ gate.T + gate_bias) * (rows @ up.T + up_bias).

    Args:
        gate: [num_outputs, num_inputs]; may be freed by the caller afterwards.
        up: Same shape.
        gate_bias: [num_outputs].
        up_bias: [num_outputs].

    Returns:
        The layer.
    """
    if can_pack(gate.device, gate.dtype):
        return _PackedGatedLinear(gate, up, gate_bias, up_bias)
    return _PlainGatedLinear(gate, up, gate_bias, up_bias)


@functools.cache
def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of this dtype here, and computes with them rightly.

    Args:
        device: Where the weights are.
        dtype: Of weights and activations.

    Returns:
        True if a small gated layer comes out as without packing.
    """
    if device.type != "cpu":
        return False
    generator = torch.Generator().manual_seed(0)
    gate, up, rows = (torch.randn(32, 32, generator=generator).to(dtype) for _ in range(3))
    try:
        packed = _PackedGatedLinear(gate, up, None, None)(rows)
    except (AttributeError, RuntimeError):  # no such operator; no kernel for this CPU
        return False
    plain = _PlainGatedLinear(gate, up, None, None)(rows)
    return torch.allclose(packed.float(), plain.float(), rtol=0.05, atol=0.5)


class _PlainLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self._weight, self._bias)


class _PackedLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._product = torch.ops.mkldnn._linear_pointwise.default
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        output: Tensor = self._product(rows, self._weight, self._bias, "none", [], "")
        return output


class _PlainGatedLinear:
    def __init__(
        self, gate: Tensor, up: Tensor, gate_bias: Tensor | None, up_bias: Tensor | None
    ) -> None:
        self._gate = _PlainLinear(gate, gate_bias)
        self._up = _PlainLinear(up, up_bias)

    def __call__(self, rows: Tensor) -> Tensor:
        return F.silu(self._gate(rows)).mul_(self._up(rows))


class _PackedGatedLinear:
    """The gate's product ends with SiLU, the up product with the multiplication by it.

    Two products and not one over both matrices: with the two elementwise passes gone, a
    step of 16 rows takes two thirds of the time, one of 256 rows half.
    """

    def __init__(
        self, gate: Tensor, up: Tensor, gate_bias: Tensor | None, up_bias: Tensor | None
    ) -> None:
        self._product = torch.ops.mkldnn._linear_pointwise
        self._gate = torch.ops.mkldnn._reorder_linear_weight(gate)
        self._up = torch.ops.mkldnn._reorder_linear_weight(up)
        self._gate_bias = gate_bias
        self._up_bias = up_bias

    def __call__(self, rows: Tensor) -> Tensor:
        gate = self._product.default(rows, self._gate, self._gate_bias, "swish", [], "")
        output: Tensor = self._product.binary(rows, gate, self._up, self._up_bias, "mul")
        return output
