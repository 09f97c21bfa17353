from __future__ import annotations

import torch

from realtime_serve.nn.head import NUM_REFINED, LogitsHead


def test_logits_in_float32_are_the_plain_product() -> None:
    weight, rows = torch.randn(300, 64), torch.randn(5, 64)
    torch.testing.assert_close(LogitsHead(weight)(rows), rows @ weight.T, atol=1e-5, rtol=1e-5)


def test_in_bfloat16_tokens_that_would_tie_are_told_apart() -> None:
    # Logits of 40 + k / 64: bfloat16 has steps of 1 / 4 there, so that all would tie.
    weight = torch.zeros(300, 64, dtype=torch.bfloat16)
    weight[:, 0] = -1.0
    close = torch.arange(0, 300, 50)
    weight[close, 0] = 40.0
    weight[close, 1] = torch.tensor([2, 5, 1, 4, 3, 0], dtype=torch.bfloat16) / 64
    rows = torch.zeros(1, 64, dtype=torch.bfloat16)
    rows[0, :2] = 1.0

    rounded = (rows @ weight.T)[0, close]
    assert len(rounded.unique()) == 1, "the test needs ties"
    logits = LogitsHead(weight)(rows)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, rows.float() @ weight.float().T)


def test_in_bfloat16_the_likeliest_tokens_are_those_of_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(5000, 128, generator=generator).bfloat16()
    rows = torch.randn(200, 128, generator=generator).bfloat16()
    exact = rows.float() @ weight.float().T
    logits = LogitsHead(weight)(rows)
    assert torch.equal(logits.argmax(-1), exact.argmax(-1))
    largest = exact.topk(4).indices
    torch.testing.assert_close(logits.gather(1, largest), exact.gather(1, largest))


def test_a_vocabulary_smaller_than_what_is_refined_works() -> None:
    weight = torch.randn(NUM_REFINED - 1, 64).bfloat16()
    rows = torch.randn(2, 64).bfloat16()
    torch.testing.assert_close(
        LogitsHead(weight)(rows), rows.float() @ weight.float().T, atol=1e-4, rtol=1e-4
    )
