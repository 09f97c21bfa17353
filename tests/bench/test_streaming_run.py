from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from peers.processes import session_members
from streaming import command
from streaming.candidates import OURS
from streaming.scenarios import METRICS, SCENARIOS

RUN = Path(command.__file__).with_name("run.py")

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="the server and the client need a processor each"
)


def run(tmp_path: Path, *arguments: str) -> int:
    folders = ["--results", str(tmp_path), "--environments", str(tmp_path / "none")]
    return command.main(["--quick", "--repeats", "1", "--name", "smoke", *folders, *arguments])


def test_a_quick_run_writes_the_figures_of_this_server_and_the_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--candidates", f"{OURS},floor", "--scenarios", "answers_64") == 0
    written = json.loads((tmp_path / "smoke.json").read_text())
    keys = {metric.key for metric in SCENARIOS["answers_64"].metrics()}
    for name in (OURS, "floor"):
        assert set(written["values"][name]) == keys
    assert written["values"][OURS]["answers_64_cpu"][0] > 0
    table = (tmp_path / "smoke.md").read_text()
    assert METRICS["answers_64_cpu"].title in table
    assert table.strip() == capsys.readouterr().out.strip()


def test_figures_of_other_scenarios_are_kept_if_they_are_added_to(tmp_path: Path) -> None:
    assert run(tmp_path, "--candidates", "floor", "--scenarios", "paced_64") == 0
    assert run(tmp_path, "--candidates", "floor", "--scenarios", "answers_64", "--add") == 0
    figures = json.loads((tmp_path / "smoke.json").read_text())["values"]["floor"]
    assert {"paced_64_cpu", "answers_64_cpu"} <= set(figures)
    assert run(tmp_path, "--candidates", "floor", "--scenarios", "answers_64") == 0
    figures = json.loads((tmp_path / "smoke.json").read_text())["values"]["floor"]
    assert "paced_64_cpu" not in figures


def test_candidates_that_are_not_installed_are_listed_with_what_they_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--list", "--environments", str(tmp_path)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines[OURS] == lines["floor"] == lines["flask-gevent"] == "ready"
    assert lines["mosec"] == f"lacks {tmp_path}/streaming/bin/python"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates", "nobody"], "No candidate nobody"),
        (["--candidates", "mosec"], "run bench/peers/setup_peers.py"),
        (["--scenarios", "sleep"], "No scenario sleep"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_is_stopped_stops_the_server_that_it_measures(tmp_path: Path) -> None:
    arguments = ["--candidates", "floor", "--scenarios", "paced_64", "--window-s", "60"]
    process = subprocess.Popen(
        [sys.executable, str(RUN), *arguments, "--results", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as lines:
        assert next(lines) == "floor: paced_64\n"  # said once the server is ready
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        server = int(children[0])
        assert session_members(server) == [server]
        process.terminate()
        assert process.wait() == 130
    assert session_members(server) == []
