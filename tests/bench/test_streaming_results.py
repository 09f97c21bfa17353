from __future__ import annotations

import json

import pytest

from figures import Measured
from streaming.candidates import Role
from streaming.results import StreamingResults
from streaming.scenarios import METRICS, SCENARIOS, Scenario
from streaming.session import Session

SEEN = {
    "window_s": 2.0,
    "num_tokens": 10_000,
    "num_answers": 50,
    "server_cpu_s": 0.1,
    "client_cpu_s": 0.05,
    "lateness_p50_us": 500.0,
    "lateness_p99_us": 2500.0,
    "first_token_p50_us": 10_000.0,
    "first_token_p99_us": 12_000.0,
}


def results(*rows: tuple[str, Role, dict[str, float]]) -> StreamingResults:
    found = StreamingResults({"quick": False})
    for name, role, values in rows:
        found.add_session(name, role, "paced_64", Session(Measured(values)))
    return found


def cells(table: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_processor_time_is_a_token_s_and_in_microseconds() -> None:
    values = SCENARIOS["paced_64"].values(SEEN)
    assert values == {
        "paced_64_cpu": 10.0,
        "paced_64_rate": 5000.0,
        "paced_64_rate_per_core": 100_000.0,
        "paced_64_lateness_p50": 0.5,
        "paced_64_lateness_p99": 2.5,
        "paced_64_ttft_p50": 10.0,
        "paced_64_ttft_p99": 12.0,
    }


def test_answers_that_are_no_streams_are_counted_by_the_second() -> None:
    nothing = {key: None for key in SEEN if key.endswith("_us")}
    values = SCENARIOS["whole_64"].values({**SEEN, **nothing, "num_tokens": 0})
    assert values == {"whole_64_answers": 25.0}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_scenario_gives_the_figures_that_the_table_knows(scenario: Scenario) -> None:
    values = scenario.values(SEEN)
    assert set(values) == {metric.key for metric in scenario.metrics()}
    assert set(values) <= set(METRICS)
    assert len(values) == len(scenario.figures)


def test_requests_ask_for_what_the_scenario_says() -> None:
    body = json.loads(SCENARIOS["answers_64"].body())
    assert (body["max_tokens"], body["stream"]) == (128, True)
    warm_up = json.loads(SCENARIOS["answers_64"].body(warm_up=True))
    assert warm_up["max_tokens"] < 128
    whole = json.loads(SCENARIOS["whole_64"].body(warm_up=True))
    assert (whole["max_tokens"], whole["stream"]) == (1, False)


def test_ratios_are_to_the_floor_and_to_the_best_peer() -> None:
    key = "paced_64_cpu"
    found = results(
        ("realtime-serve", Role.OURS, {key: 12.0}),
        ("floor", Role.FLOOR, {key: 8.0}),
        ("granian", Role.PEER, {key: 24.0}),
        ("mosec", Role.PEER, {key: 48.0}),
    )
    assert found.ratio(METRICS[key], Role.FLOOR) == 1.5
    assert found.ratio(METRICS[key], Role.PEER) == 0.5
    row = cells(found.table())[METRICS[key].title]
    assert row == ["12", "8", "24", "48", "1.50", "0.50"]


def test_the_best_peer_of_a_rate_is_the_fastest() -> None:
    key = "free_64_rate"
    found = results(
        ("realtime-serve", Role.OURS, {key: 300_000.0}),
        ("granian", Role.PEER, {key: 150_000.0}),
        ("mosec", Role.PEER, {key: 50_000.0}),
    )
    assert found.ratio(METRICS[key], Role.PEER) == 2.0
    assert found.ratio(METRICS[key], Role.FLOOR) is None
    assert cells(found.table())[METRICS[key].title][-2:] == ["-", "2.00"]


def test_a_failure_a_busy_client_and_other_events_are_told() -> None:
    found = StreamingResults({})
    failed = Session(Measured(failures={"paced_64": "HTTP 503: busy"}))
    busy = Session(Measured({"paced_64_cpu": 1.0}), event_bytes=230.4, client_percent=90.0)
    quiet = Session(Measured({"paced_64_cpu": 1.0}), event_bytes=222.0, client_percent=20.0)
    found.add_session("a", Role.PEER, "paced_64", failed)
    found.add_session("b", Role.PEER, "paced_64", busy)
    found.add_session("c", Role.PEER, "paced_64", quiet)
    assert found.remarks() == [
        "Failed: a, paced_64: HTTP 503: busy",
        "Events of b have 230 bytes instead of 222.",
        "The client used 90 % of its processor: b, paced_64: the server may do more.",
    ]


def test_a_scenario_that_is_measured_again_replaces_what_was_known_of_it() -> None:
    found = results(("floor", Role.FLOOR, {"paced_64_cpu": 8.0, "paced_256_cpu": 7.0}))
    found.failures = {"floor": {"paced_64": "an accident"}}
    found.forget("floor", "paced_64")
    assert found.values == {"floor": {"paced_256_cpu": [7.0]}}
    assert found.remarks() == []


def test_results_survive_a_file() -> None:
    found = results(("floor", Role.FLOOR, {"paced_64_cpu": 8.0}))
    again = StreamingResults.from_json(json.loads(json.dumps(found.as_json())))
    assert again == found
    assert again.table() == found.table()
