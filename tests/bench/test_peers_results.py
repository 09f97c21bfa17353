from __future__ import annotations

import json

import pytest

from figures import Measured
from peers.metrics import METRICS
from peers.results import Results


def results(values: dict[str, dict[str, list[float]]]) -> Results:
    return Results({"quick": False}, values)


def cells(table: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_the_median_of_the_repeats_counts() -> None:
    found = results({"vllm:bf16": {"decode_1": [50.0, 70.0, 10.0]}})
    assert found.median("vllm:bf16", "decode_1") == 50.0
    assert found.median("vllm:bf16", "decode_4") is None
    assert found.median("nobody:bf16", "decode_1") is None


def test_more_tokens_a_second_give_a_higher_ratio_to_the_fastest_peer() -> None:
    found = results(
        {
            "realtime-serve:bfloat16": {"decode_4": [300.0]},
            "vllm:bf16": {"decode_4": [100.0]},
            "llama.cpp:bf16": {"decode_4": [150.0]},
        }
    )
    assert found.ratio(METRICS["decode_4"], found.values) == 2.0


def test_a_shorter_time_gives_a_lower_ratio_to_the_quickest_peer() -> None:
    found = results(
        {
            "realtime-serve:bfloat16": {"ttft": [50.0]},
            "vllm:bf16": {"ttft": [100.0]},
            "llama.cpp:bf16": {"ttft": [400.0]},
        }
    )
    assert found.ratio(METRICS["ttft"], found.values) == 0.5


def test_each_side_takes_its_best_precision_for_that_figure() -> None:
    found = results(
        {
            "realtime-serve:bfloat16": {"decode_1": [100.0]},
            "realtime-serve:q4": {"decode_1": [400.0]},
            "llama.cpp:bf16": {"decode_1": [50.0]},
            "llama.cpp:q4_0": {"decode_1": [200.0]},
        }
    )
    table = cells(found.table())
    (row,) = (row for label, row in table.items() if label.startswith("32-token prompts, 1"))
    assert row == ["100", "400", "50", "200", "2.00", "2.00"]
    assert found.ratio(METRICS["decode_1"], ["realtime-serve:q4", "llama.cpp:bf16"]) == 8.0


@pytest.mark.parametrize("missing", ["realtime-serve:bfloat16", "vllm:bf16"])
def test_without_one_side_there_is_no_ratio(missing: str) -> None:
    found = results(
        {"realtime-serve:bfloat16": {"decode_1": [1.0]}, "vllm:bf16": {"decode_1": [1.0]}}
    )
    assert found.ratio(METRICS["decode_1"], found.values) == 1.0
    del found.values[missing]
    assert found.ratio(METRICS["decode_1"], found.values) is None


def test_the_table_has_the_rows_that_were_measured_and_says_which_way_is_better() -> None:
    found = results({"vllm:bf16": {"ttft": [123.4], "decode_1": [66.66]}})
    labels = list(cells(found.table()))[2:]
    assert labels == [
        "32-token prompts, 1 stream, tokens/s (higher is better)",
        "first token of a 512-token prompt, ms (lower is better)",
    ]


def test_a_figure_that_a_candidate_lacks_is_a_dash() -> None:
    found = results({"vllm:bf16": {"ttft": [123.4]}, "llama.cpp:bf16": {"decode_1": [71.0]}})
    table = cells(found.table())
    assert table["first token of a 512-token prompt, ms (lower is better)"] == [
        *("123", "-", "-", "-"),
    ]


def test_sessions_add_up_to_one_value_a_repeat() -> None:
    found = Results({})
    for value in (3.0, 1.0, 2.0):
        found.add("vllm:bf16", Measured({"decode_1": value}))
    assert found.values == {"vllm:bf16": {"decode_1": [3.0, 1.0, 2.0]}}
    assert found.failures == {}


def test_a_failure_is_told_below_the_table() -> None:
    found = Results({})
    found.add("vllm:bf16", Measured(failures={"long": "2 requests failed\nand a log"}))
    assert found.remarks() == ["Failed: vllm:bf16, long: 2 requests failed"]


def test_results_survive_a_file() -> None:
    found = Results({"quick": True}, load_averages=[0.5, 2.0])
    found.add("vllm:bf16", Measured({"ttft": 5.0}, {"long": "too slow"}))
    again = Results.from_json(json.loads(json.dumps(found.as_json())))
    assert again == found
    assert "Load average of the machine before each session: 0.5 to 2.0." in again.remarks()
