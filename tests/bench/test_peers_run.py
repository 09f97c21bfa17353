from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import choices
from peers import command
from peers.candidates import all_candidates
from peers.environments import Environments
from peers.metrics import METRICS
from peers.processes import session_members

OURS = "realtime-serve:bfloat16"
RUN = Path(command.__file__).with_name("run.py")


def test_a_quick_run_against_this_server_alone_writes_its_figures(
    gguf_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gguf_path
    arguments = ["--quick", "--repeats", "1", "--candidates", OURS, "--name", "smoke"]
    folders = ["--results", str(tmp_path), "--environments", str(tmp_path / "none")]
    assert command.main([*arguments, *folders, "--scenarios", "decode,ttft,memory"]) == 0
    written = json.loads((tmp_path / "smoke.json").read_text())
    figures = written["values"][OURS]
    assert set(figures) == {"decode_1", "decode_4", "ttft", "memory"}
    assert all(len(values) == 1 and values[0] > 0 for values in figures.values())
    table = (tmp_path / "smoke.md").read_text()
    assert METRICS["decode_4"].label in table
    assert table.strip() == capsys.readouterr().out.strip()


def test_candidates_that_are_not_installed_are_listed_with_what_they_lack(
    gguf_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gguf_path
    assert command.main(["--list", "--environments", str(tmp_path)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines[OURS] == "ready"
    assert lines["llama.cpp:q4_1"] == f"lacks {tmp_path}/llama.cpp/build/bin/llama-server"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates", "nobody:bf16"], "No candidate nobody:bf16"),
        (["--candidates", "vllm:bf16"], "run bench/peers/setup_peers.py"),
        (["--candidates", OURS, "--scenarios", "sleep"], "No scenario sleep"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_sentence(
    arguments: list[str],
    message: str,
    gguf_path: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gguf_path
    assert command.main([*arguments, "--environments", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_is_stopped_stops_the_server_that_it_measures(
    gguf_path: str, tmp_path: Path
) -> None:
    assert gguf_path
    arguments = ["--quick", "--candidates", OURS, "--scenarios", "decode"]
    process = subprocess.Popen(
        [sys.executable, str(RUN), *arguments, "--results", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as lines:
        assert next(lines) == f"{OURS}: decode\n"  # said once the server is ready
        (server,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert session_members(int(server))
        process.terminate()
        assert process.wait() == 130
    assert session_members(int(server)) == []


def test_without_names_only_the_usual_candidates_are_measured(
    gguf_path: str, tmp_path: Path
) -> None:
    assert gguf_path
    candidates = all_candidates(Environments(tmp_path))
    usual = [each for each in candidates.values() if each.by_default]
    chosen = choices.choose(None, candidates, usual)
    assert OURS in [each.name for each in chosen]
    assert len(chosen) < len(usual) < len(candidates)
    named = "realtime-serve:q4-kv8"
    assert [each.name for each in choices.choose([named], candidates, usual)] == [named]
