"""The soak in its short form, and what it would say of a server that keeps something."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import soak
from soak import MIB, Holdings, growth_of, verdict

IDLE = Holdings(
    num_clients=0,
    minutes=0.0,
    memory_bytes=400 * MIB,
    num_descriptors=14,
    num_greenlets=1,
    kv_usage=0.0,
)

NUM_ROUNDS = 20


def series(field: str, values: list[Any]) -> list[Holdings]:
    return [replace(IDLE, **{field: value}) for value in values]


@pytest.mark.not_under_gevent("the server is a process of its own")
def test_some_hundred_clients_leave_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--streams", "320", "--round", "40"]) == 0
    *_, rows, said = capsys.readouterr().out.split("\n\n")
    assert len(rows.splitlines()) == 2 + 320 / 40
    assert said == "Nothing was kept.\n"


def test_what_is_as_it_was_is_no_fault() -> None:
    assert verdict([IDLE] * NUM_ROUNDS, []) == []


def test_memory_that_grows_by_a_little_in_each_round_is_found() -> None:
    kept = series("memory_bytes", [(400 + 0.5 * i) * MIB for i in range(NUM_ROUNDS)])
    assert verdict(kept, []) == ["memory grew by 1.7%"]


def test_memory_that_comes_and_goes_is_no_growth() -> None:
    noisy = series("memory_bytes", [(400 + i % 2) * MIB for i in range(NUM_ROUNDS)])
    assert verdict(noisy, []) == []


def test_what_grows_only_while_the_server_warms_up_does_not_count() -> None:
    filled = series("memory_bytes", [300 * MIB, 390 * MIB, *[400 * MIB] * (NUM_ROUNDS - 2)])
    assert verdict(filled, []) == []


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        ("num_descriptors", "descriptors were not given back"),
        ("num_greenlets", "greenlets have not ended"),
        ("kv_usage", "KV blocks were not given back"),
    ],
)
def test_whatever_else_is_kept_is_named(field: str, fault: str) -> None:
    first = getattr(IDLE, field)
    assert verdict(series(field, [first] * 10 + [first + 1] * 10), []) == [fault]


@pytest.mark.parametrize("field", ["num_descriptors", "num_greenlets", "kv_usage"])
def test_what_was_late_once_is_not_kept(field: str) -> None:
    first = getattr(IDLE, field)
    assert verdict(series(field, [first] * 19 + [first + 1]), []) == []


def test_a_client_that_was_served_wrongly_is_a_fault() -> None:
    assert verdict([IDLE] * NUM_ROUNDS, ["visit 7: no end"]) == ["visit 7: no end"]


def test_growth_is_the_lines_and_not_the_last_values() -> None:
    assert growth_of([100, 101, 102]) == pytest.approx(2 / 101)
    assert growth_of([100, 100, 100]) == 0.0
