from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own custom
from torch import Tensor

from realtime_serve.nn.linear import can_pack, gated_linear, linear

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(params=["packed", "plain"], autouse=True)
def packing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test with oneDNN, and as on a machine that lacks it."""
    if request.param == "packed":
        if not can_pack(CPU, torch.float32):
            pytest.skip("torch was built without oneDNN")
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("realtime_serve.nn.linear.can_pack", lambda device, dtype: False)
        yield


def weights(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(shape, generator=generator) / 8).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 3, 70])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_linear_layer_is_a_product_and_a_sum(
    dtype: torch.dtype, num_rows: int, with_bias: bool
) -> None:
    rows, weight, bias = weights(dtype, (num_rows, 65), (33, 65), (33,))
    expected = F.linear(rows.float(), weight.float(), bias.float() if with_bias else None)
    output = linear(weight, bias if with_bias else None)(rows)
    assert output.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(output.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 3, 70])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_gated_layer_is_silu_of_one_product_times_another(
    dtype: torch.dtype, num_rows: int, with_bias: bool
) -> None:
    rows, gate, up, gate_bias, up_bias = weights(
        dtype, (num_rows, 65), (33, 65), (33, 65), (33,), (33,)
    )
    biases = (gate_bias, up_bias) if with_bias else (None, None)
    floats = [None if bias is None else bias.float() for bias in biases]
    expected = F.silu(F.linear(rows.float(), gate.float(), floats[0])) * F.linear(
        rows.float(), up.float(), floats[1]
    )
    output = gated_linear(gate, up, *biases)(rows)
    assert output.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(output.float(), expected, atol=tolerance, rtol=tolerance)


def test_only_a_cpu_packs() -> None:
    assert not can_pack(torch.device("meta"), torch.float32)


def test_a_dtype_without_a_kernel_is_not_packed() -> None:
    assert not can_pack(CPU, torch.float64)
