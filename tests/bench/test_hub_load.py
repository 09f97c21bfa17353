"""bench/hub_load.py compares the right steps, on the engine that a server has."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

import hub_load
from hub_load import Figures, HubLoad, Level, Run, burn_while, full_steps
from support.native_network import NATIVE_SIZES
from support.tiny_models import random_model
from timed_engine import StepTime

BYTE_LLAMA = transformers.LlamaConfig(**{**NATIVE_SIZES, "vocab_size": 256})
"""Its tokens are single bytes."""

NUM_TOKENS = 100


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model directory, and nothing cached of it but in another one beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    random_model(BYTE_LLAMA).save_pretrained(tmp_path / "model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.save(str(tmp_path / "model" / "tokenizer.json"))
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def same_switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def steps(*tokens: int) -> list[StepTime]:
    """One every 10 s; each takes as many seconds as it has tokens, which all are of streams."""
    return [StepTime(10.0 * i, float(count), count, count) for i, count in enumerate(tokens)]


def run_of(durations_s: Sequence[float], intervals_s: Sequence[float], share: float = 0.0) -> Run:
    return Run(list(durations_s), list(intervals_s), share)


def test_only_steps_with_a_token_of_every_stream_count() -> None:
    durations_s, intervals_s = full_steps(steps(64, 33, 2, 2, 1, 2, 2, 2, 1), 2)
    assert durations_s == [2.0] * 5
    assert intervals_s == [10.0] * 3


def test_a_part_of_a_prompt_with_as_many_tokens_as_there_are_streams_is_no_full_step() -> None:
    times = steps(2, 2, 2, 2)
    times[1] = times[1]._replace(num_streams=0)
    durations_s, intervals_s = full_steps(times, 2)
    assert durations_s == [2.0] * 3
    assert intervals_s == [10.0]


def test_figures_are_medians_over_all_runs() -> None:
    figures = Figures.of(
        [run_of([0.001, 0.002], [0.003], 0.25), run_of([0.009], [0.004, 0.005], 0.75)]
    )
    assert figures.num_steps == 3
    assert figures.step_ms == pytest.approx(2)
    assert figures.interval_ms == pytest.approx(4)
    assert figures.hub_percent == pytest.approx(50)


def test_growth_is_loaded_over_alone() -> None:
    level = Level(
        num_streams=1,
        alone=Figures.of([run_of([0.002], [0.004])]),
        loaded=Figures.of([run_of([0.003], [0.005])]),
    )
    assert level.step_growth == pytest.approx(1.5)
    assert level.interval_growth == pytest.approx(1.25)


def test_streams_that_never_ran_together_are_no_measurement() -> None:
    with pytest.raises(ValueError, match="raise --tokens"):
        Figures.of([run_of([0.001], [])])


@pytest.mark.parametrize("period_s", [0.002, 0.0001], ids=["in time", "always late"])
def test_the_hub_burns_python_until_it_is_no_longer_wanted(period_s: float) -> None:
    wanted = iter([True, True, False])
    burn_while(lambda: next(wanted), HubLoad(0.001, period_s))
    assert list(wanted) == []


def test_it_prints_and_writes_both_kinds_of_each_level(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--model", str(directory), "--dtype", "float32", "--streams", "1,2"]
    arguments += [f"--tokens={NUM_TOKENS}", "--repeats=2", "--busy-ms=1", "--period-ms=2"]
    assert hub_load.main([*arguments, "--json", str(file)]) == 0
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split("|")[1].strip() for row in rows] == ["1", "2"]
    figures = json.loads(file.read_text())
    one, two = figures["levels"]
    assert one["alone"]["num_steps"] == one["loaded"]["num_steps"] == 2 * (NUM_TOKENS - 1)
    assert 0 < two["alone"]["num_steps"] < 2 * NUM_TOKENS
    assert all(level["step_growth"] > 0 and level["interval_growth"] > 0 for level in (one, two))


def test_what_cannot_be_measured_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hub_load.main(["--model", str(tmp_path / "none.gguf")]) == 2
    assert "Nothing measured" in capsys.readouterr().err


def test_rows_that_were_measured_before_something_failed_are_not_called_nothing(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(directory), "--dtype", "float32", "--streams", "1"]
    arguments += [f"--tokens={NUM_TOKENS}", "--repeats=1", "--busy-ms=1", "--period-ms=2"]
    assert hub_load.main([*arguments, "--json", str(tmp_path / "absent" / "file")]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("| 1 |")
    assert "Nothing measured" not in printed.err
    assert "absent" in printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        "--streams=0",
        "--streams=1,,4",
        "--tokens=8",
        "--repeats=0",
        "--repeats=1.5",
        "--busy-ms=0",
        "--busy-ms=-5",
        "--busy-ms=nan",
        "--period-ms=inf",
        "--busy-ms=11 --period-ms=10",
    ],
)
def test_arguments_that_measure_nothing_are_refused_by_name(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        hub_load.main(arguments.split())
    assert caught.value.code == 2
    assert arguments.partition("=")[0] in capsys.readouterr().err.splitlines()[-1]


def test_a_hub_may_be_busy_all_of_the_time() -> None:
    options = hub_load.parse_arguments(["--busy-ms=10", "--period-ms=10", "--streams=2"])
    assert options.busy_ms == options.period_ms == 10
    assert options.streams == [2]
