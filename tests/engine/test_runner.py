from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.engine.kv_storage import BLOCK_SIZE, KVStorage
from realtime_serve.engine.runner import ModelRunner, ScheduledRows, build_batch
from support.stub_model import HistoryModel

CPU = torch.device("cpu")


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
        rows.append(ScheduledRows(token_ids, start, table, draw(st.booleans())))
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
        if work.wants_logits
    ]
    assert batch.logits_rows.tolist() == expected


def test_logits_come_in_the_order_of_the_work() -> None:
    model = HistoryModel()
    runner = ModelRunner(model, KVStorage(model, 8))
    logits = runner.forward(
        [
            ScheduledRows([5, 6, 7], 0, [3], True),
            ScheduledRows([8, 9], 0, [1], False),
            ScheduledRows([4], 0, [2], True),
        ]
    )
    assert torch.equal(logits[0], model.next_logits([5, 6, 7]))
    assert torch.equal(logits[1], model.next_logits([4]))
    assert len(logits) == 2


def test_a_later_step_continues_where_an_earlier_one_wrote() -> None:
    model = HistoryModel()
    runner = ModelRunner(model, KVStorage(model, 8))
    tokens = [index % 97 for index in range(20)]
    assert runner.forward([ScheduledRows(tokens[:17], 0, [6, 2], False)]).shape == (0, 97)
    logits = runner.forward([ScheduledRows(tokens[17:], 17, [6, 2], True)])
    assert torch.equal(logits[0], model.next_logits(tokens))


def test_steps_leave_no_graph_behind() -> None:
    model = HistoryModel()
    logits = ModelRunner(model, KVStorage(model, 8)).forward([ScheduledRows([5], 0, [0], True)])
    assert logits.is_inference()
