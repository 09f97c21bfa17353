from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from realtime_serve.nn.attention import (
    SHORT_TABLE,
    AttentionPlan,
    HeadShape,
    cut_into_pieces,
    group_by_length,
)
from realtime_serve.nn.interface import ForwardBatch, Span

BLOCK_SIZE = 4
HEADS = HeadShape(num_heads=6, num_kv_heads=2, head_dim=8)

lengths = st.integers(min_value=1, max_value=200).flatmap(
    lambda kv_len: st.tuples(
        st.one_of(st.just(1), st.integers(min_value=1, max_value=kv_len)), st.just(kv_len)
    )
)
"""(rows in this step, tokens in the cache after it) of one sequence."""


class Step:
    """A random step of given spans, and its attention worked out row by row in float64."""

    def __init__(self, shape: list[tuple[int, int]], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        num_blocks = sum(-(-kv_len // BLOCK_SIZE) for _, kv_len in shape)
        blocks = torch.randperm(num_blocks + 3, generator=generator).tolist()
        self.kv = torch.randn(num_blocks + 3, BLOCK_SIZE, 2, 2, 8, generator=generator)
        self.spans, start = [], 0
        for num_rows, kv_len in shape:
            count = -(-kv_len // BLOCK_SIZE)
            self.spans.append(Span(start, num_rows, kv_len, blocks[:count]))
            blocks, start = blocks[count:], start + num_rows
        self.queries = torch.randn(start, 48, generator=generator)

    def batch(self) -> ForwardBatch:
        positions = [
            position
            for span in self.spans
            for position in range(span.kv_len - span.num_rows, span.kv_len)
        ]
        nothing = torch.tensor([], dtype=torch.int64)
        return ForwardBatch(
            token_ids=nothing,
            positions=torch.tensor(positions),
            slots=nothing,
            spans=tuple(self.spans),
            logits_rows=nothing,
        )

    def expected(self) -> Tensor:
        slots = self.kv.double().view(-1, 2, 2, 8)
        rows = []
        for span in self.spans:
            for offset in range(span.num_rows):
                visible = span.kv_len - span.num_rows + offset + 1
                places = [
                    span.block_table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
                    for position in range(visible)
                ]
                query = self.queries[span.start + offset].double().view(2, 3, 8)
                rows.append(_attention(query, slots[places]).flatten())
        return torch.stack(rows)


def _attention(query: Tensor, context: Tensor) -> Tensor:
    """[kv head, group, dim] over [token, key or value, kv head, dim]."""
    scores = torch.einsum("hgd,thd->hgt", query, context[:, 0]) / 8**0.5
    return torch.einsum("hgt,thd->hgd", scores.softmax(-1), context[:, 1])


@settings(max_examples=60, deadline=None)
@given(shape=st.lists(lengths, min_size=1, max_size=12), seed=st.integers(0, 2**16))
def test_any_mix_of_spans_gives_each_row_its_own_attention(
    shape: list[tuple[int, int]], seed: int
) -> None:
    step = Step(shape, seed)
    plan = AttentionPlan(step.batch(), HEADS, BLOCK_SIZE, torch.float32)
    output = plan.attend(step.queries, step.kv)
    torch.testing.assert_close(output.double(), step.expected(), atol=1e-4, rtol=1e-4)


def test_queries_may_be_a_view_into_wider_rows() -> None:
    step = Step([(1, 20), (7, 9), (1, 150)], seed=5)
    plan = AttentionPlan(step.batch(), HEADS, BLOCK_SIZE, torch.float32)
    wider = torch.cat((step.queries, torch.randn(9, 16)), dim=1)
    output = plan.attend(wider[:, :48], step.kv)
    torch.testing.assert_close(output.double(), step.expected(), atol=1e-4, rtol=1e-4)


def test_what_a_block_holds_beyond_the_sequence_does_not_matter() -> None:
    step = Step([(1, 5), (3, 6)], seed=6)
    plan = AttentionPlan(step.batch(), HEADS, BLOCK_SIZE, torch.float32)
    before = plan.attend(step.queries, step.kv)
    for span in step.spans:
        step.kv[span.block_table[-1], span.kv_len % BLOCK_SIZE :] = 1e6
    assert torch.equal(plan.attend(step.queries, step.kv), before)


@given(
    kv_lens=st.lists(st.integers(min_value=1, max_value=20_000), min_size=1, max_size=64),
)
def test_groups_hold_every_row_once_and_waste_at_most_half(kv_lens: list[int]) -> None:
    spans = [Span(start, 1, kv_len, ()) for start, kv_len in enumerate(kv_lens)]
    groups = group_by_length(spans, BLOCK_SIZE)
    assert sorted(span.start for group in groups for span in group) == list(range(len(spans)))
    for group in groups:
        assert group == sorted(group)
        blocks = [-(-span.kv_len // BLOCK_SIZE) for span in group]
        assert max(blocks) <= SHORT_TABLE or min(blocks) >= max(blocks) // 2


@pytest.mark.parametrize(("num_rows", "kv_len"), [(1, 1), (256, 256), (257, 300), (1000, 1024)])
def test_pieces_cover_a_span_in_order_each_with_its_context(num_rows: int, kv_len: int) -> None:
    pieces = list(cut_into_pieces(Span(3, num_rows, kv_len, (0,)), 256))
    next_row, next_position = 3, kv_len - num_rows
    for piece in pieces:
        assert 1 <= piece.num_rows <= 256
        assert piece.start == next_row
        assert piece.kv_len - piece.num_rows == next_position
        next_row, next_position = next_row + piece.num_rows, piece.kv_len
    assert (next_row, next_position) == (3 + num_rows, kv_len)
