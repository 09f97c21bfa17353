from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from realtime_serve._kernels import cpu_levels
from realtime_serve.engine.runner import BLOCK_SIZE, SamplingRow, ScheduledRows
from realtime_serve.engine.torch_runner import TorchRunner, build_batch
from realtime_serve.nn.interface import ForwardBatch, KVTensors
from realtime_serve.types import SamplingParams
from support.network import rows as work_of
from support.row_sampling import sample_row
from support.stub_model import HistoryModel

CPU = torch.device("cpu")


def allocated_runner(model: HistoryModel, cpu_level: str | None = None) -> TorchRunner:
    runner = TorchRunner(model, cpu_level)
    runner.allocate(8)
    return runner


@st.composite
def scheduled(draw: st.DrawFn) -> list[ScheduledRows]:
    """Work of several sequences; their blocks do not overlap."""
    rows, next_block = [], 0
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.integers(0, 70))
        token_ids = draw(st.lists(st.integers(0, 96), min_size=1, max_size=40))
        num_blocks = -(-(start + len(token_ids)) // BLOCK_SIZE)
        table = draw(st.permutations(range(next_block, next_block + num_blocks)))
        next_block += num_blocks
        rows.append(work_of(token_ids, start, table, draw(st.booleans())))
    return rows


@given(rows=scheduled())
def test_each_token_stands_at_its_position_and_in_its_block(rows: list[ScheduledRows]) -> None:
    batch = build_batch(rows, BLOCK_SIZE, CPU)
    expected = [
        (token, position, work.block_table[position // BLOCK_SIZE], position % BLOCK_SIZE)
        for work in rows
        for position, token in enumerate(work.token_ids, work.start_position)
    ]
    slots = batch.slots.tolist()
    assert expected == list(
        zip(
            batch.token_ids.tolist(),
            batch.positions.tolist(),
            [slot // BLOCK_SIZE for slot in slots],
            [slot % BLOCK_SIZE for slot in slots],
            strict=True,
        )
    )


@given(rows=scheduled())
def test_spans_cover_the_rows_in_order(rows: list[ScheduledRows]) -> None:
    batch = build_batch(rows, BLOCK_SIZE, CPU)
    next_row = 0
    for work, span in zip(rows, batch.spans, strict=True):
        assert span.start == next_row
        assert span.num_rows == len(work.token_ids)
        assert span.kv_len == work.start_position + len(work.token_ids)
        assert span.block_table == work.block_table
        next_row += span.num_rows
    assert next_row == len(batch.token_ids)


@given(rows=scheduled())
def test_logits_are_asked_for_at_the_last_row_of_those_who_want_them(
    rows: list[ScheduledRows],
) -> None:
    batch = build_batch(rows, BLOCK_SIZE, CPU)
    expected = [
        span.start + span.num_rows - 1
        for work, span in zip(rows, batch.spans, strict=True)
        if work.samples
    ]
    assert batch.logits_rows.tolist() == expected


def test_logits_come_in_the_order_of_the_work() -> None:
    model = HistoryModel()
    runner = allocated_runner(model)
    logits = runner.forward(
        [
            work_of([5, 6, 7], 0, [3], True),
            work_of([8, 9], 0, [1], False),
            work_of([4], 0, [2], True),
        ]
    )
    assert torch.equal(logits[0], model.next_logits([5, 6, 7]))
    assert torch.equal(logits[1], model.next_logits([4]))
    assert len(logits) == 2


def test_a_later_step_continues_where_an_earlier_one_wrote() -> None:
    model = HistoryModel()
    runner = allocated_runner(model)
    tokens = [index % 97 for index in range(20)]
    assert runner.forward([work_of(tokens[:17], 0, [6, 2], False)]).shape == (0, 97)
    logits = runner.forward([work_of(tokens[17:], 17, [6, 2], True)])
    assert torch.equal(logits[0], model.next_logits(tokens))


def test_steps_leave_no_graph_behind() -> None:
    model = HistoryModel()
    logits = allocated_runner(model).forward([work_of([5], 0, [0], True)])
    assert logits.is_inference()


# --- the choice of tokens on a CPU ----------------------------------------------


FILTERS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.3},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.05, "temperature": 1.5},
]


@pytest.mark.parametrize("level", cpu_levels())
def test_on_a_cpu_tokens_and_logprobs_are_the_c_samplers_to_the_bit(level: str) -> None:
    model = HistoryModel()
    runner = allocated_runner(model, level)
    drawn = set()
    for filters in FILTERS:
        for seed in range(20):
            row = SamplingRow(SamplingParams(**filters), seed, 3, banned_token_ids=(7,))
            (token,) = runner.run([ScheduledRows([5, 6, 7], 0, [3], [row])])
            logits = model.next_logits([5, 6, 7])
            assert token == sample_row(logits, row, level)
            drawn.add(token)
    assert len(drawn) > 5, "the test needs draws that differ"


def test_each_row_is_sampled_with_its_own_settings_and_a_broken_one_fails_alone() -> None:
    model = HistoryModel()
    logits = torch.stack([model.next_logits([token]) for token in range(4)])
    logits[2, 5] = torch.nan

    class Spoilt(HistoryModel):
        def forward(self, batch: ForwardBatch, kv_cache: KVTensors) -> Tensor:
            return logits.clone()

    rows = [SamplingRow(SamplingParams(**filters), 9, 0) for filters in FILTERS[:4]]
    work = [ScheduledRows([index], 0, [index], [row]) for index, row in enumerate(rows)]
    tokens = allocated_runner(Spoilt()).run(work)
    assert tokens == [sample_row(*each) for each in zip(logits, rows, strict=True)]
    assert [token is None for token in tokens] == [False, False, True, False]


def test_logits_that_do_not_lie_row_by_row_are_sampled_alike() -> None:
    model = HistoryModel()
    logits = torch.stack([model.next_logits([token]) for token in range(3)])

    class Transposed(HistoryModel):
        def forward(self, batch: ForwardBatch, kv_cache: KVTensors) -> Tensor:
            return logits.t().contiguous().t()

    row = SamplingRow(SamplingParams(temperature=0.0), 0, 0)
    work = [ScheduledRows([index], 0, [index], [row]) for index in range(3)]
    tokens = allocated_runner(Transposed()).run(work)
    assert [token and token.token_id for token in tokens] == logits.argmax(-1).tolist()
