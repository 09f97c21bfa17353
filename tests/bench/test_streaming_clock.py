"""The model that costs nothing tells the time; its streams pause and end as real ones do."""

from __future__ import annotations

import re
import time

import pytest

from realtime_serve._token_ring import CANCELLED, FLAG_LAST, TokenRing
from realtime_serve.types import FinishReason, InferenceRequest, SamplingParams
from streaming.clock_engine import ClockEngine
from streaming.programs import SOURCES
from streaming.token_clock import (
    MAX_BEHIND_S,
    NUM_TICKS,
    TICK_NS,
    Pace,
    tick_now,
    token_text,
)

FIRST_TOKEN_ID = 256


def engine(step_s: float = 0.0) -> tuple[ClockEngine, list[float]]:
    """An engine, and the waits that it has asked for."""
    waits: list[float] = []
    made = ClockEngine(
        num_seats=4,
        step_s=step_s,
        first_token_id=FIRST_TOKEN_ID,
        max_model_len=1000,
        sleep=waits.append,
    )
    return made, waits


def request(name: str, max_tokens: int | None = None) -> InferenceRequest:
    return InferenceRequest(
        request_id=name,
        model="streaming",
        prompt_token_ids=(1, 2),
        sampling=SamplingParams(max_tokens=max_tokens),
    )


def constant(name: str) -> int:
    """What C's header says."""
    found = re.search(rf"#define {name} (\d+)", (SOURCES / "token_clock.h").read_text())
    assert found is not None
    return int(found[1])


def test_c_and_python_have_the_same_clock() -> None:
    assert constant("TICK_NS") == TICK_NS
    assert constant("CLOCK_TICKS") == NUM_TICKS
    assert constant("TOKEN_DIGITS") == len(token_text(0)) == len(token_text(NUM_TICKS - 1))
    assert constant("MAX_BEHIND_NS") == MAX_BEHIND_S * 1e9


def test_every_seated_request_gets_the_token_of_the_step() -> None:
    clock, _ = engine()
    rings = [TokenRing(8), TokenRing(8)]
    for name, ring in zip("ab", rings, strict=True):
        clock.add(request(name), ring)
    assert clock.free_slots == 2
    before = tick_now()
    output = clock.step(time.monotonic())
    after = tick_now()
    assert output.updated == ("a", "b")
    assert [started.request_id for started in output.started] == ["a", "b"]
    ((token_id, *_),) = rings[0].pop()
    assert (token_id - FIRST_TOKEN_ID - before) % NUM_TICKS <= (after - before) % NUM_TICKS
    assert rings[1].pop()[0][0] == token_id
    assert clock.step(time.monotonic()).started == ()


def test_a_request_ends_with_its_last_token() -> None:
    clock, _ = engine()
    ring = TokenRing(8)
    clock.add(request("a", max_tokens=2), ring)
    assert clock.step(time.monotonic()).finished == ()
    (finished,) = clock.step(time.monotonic()).finished
    assert (finished.reason, finished.num_generated_tokens) == (FinishReason.LENGTH, 2)
    assert [flags for *_, flags in ring.pop()] == [0, FLAG_LAST]
    assert clock.num_sequences == 0


def test_a_cancelled_request_leaves() -> None:
    clock, _ = engine()
    ring = TokenRing(8)
    clock.add(request("a"), ring)
    ring.request_cancel(CANCELLED)
    (finished,) = clock.step(time.monotonic()).finished
    assert finished.reason is FinishReason.CANCELLED
    assert clock.free_slots == 4


def test_a_full_ring_misses_steps_and_alone_stalls_the_engine() -> None:
    clock, _ = engine()
    full, roomy = TokenRing(1), TokenRing(8)
    clock.add(request("full"), full)
    clock.add(request("roomy", max_tokens=2), roomy)
    assert clock.step(time.monotonic()).updated == ("full", "roomy")
    output = clock.step(time.monotonic())
    assert (output.updated, output.stalled) == (("roomy",), False)
    assert clock.step(time.monotonic()).stalled
    assert len(full.pop()) == 1
    assert full.take_stalled()  # so its reader wakes the engine
    assert clock.step(time.monotonic()).updated == ("full",)


@pytest.mark.parametrize("num_steps", [1, 5])
def test_steps_end_on_a_grid(num_steps: int) -> None:
    clock, waits = engine(step_s=10.0)
    clock.add(request("a"), TokenRing(8))
    for _ in range(num_steps):
        clock.step(time.monotonic())
    # Nothing has waited in truth, so each step ends 10 s after the one before.
    assert [round(wait_s / 10) for wait_s in waits] == list(range(1, num_steps + 1))


def test_a_model_that_was_held_up_makes_up_for_a_tenth_of_a_second_only() -> None:
    pace = Pace(MAX_BEHIND_S / 10)  # it has never begun: it is behind since the machine started
    num_at_once = 0
    while pace.wait_s() == 0:
        num_at_once += 1
    assert 10 <= num_at_once <= 12
