"""The command: candidates in turn, scenario by scenario, then a table, a plot and the figures.

Repeats of a scenario are interleaved (A B C, A B C), so that a machine that slows down or is shared
hurts all candidates alike. Whatever is measured is written after each session: a run that is
stopped leaves what it has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import choices
import result_files
from load_test import positive_int
from peers.environments import Environments, default_root
from peers.machine import machine, revision
from streaming.candidates import Candidate, all_candidates
from streaming.programs import Programs, compile_programs
from streaming.results import StreamingResults
from streaming.scenarios import SCENARIOS, Scenario
from streaming.session import Processors, Window, choose_processors, run_session

SETTLE_S = 1.0

QUICK_WINDOW = Window(settle_s=0.05, window_s=0.2)


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Measure what a streamed token costs this server, its peers and a floor in C.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--candidates", type=choices.names, metavar="NAME,...", help="all installed if left out")
    add("--list", action="store_true", help="list the candidates and what they lack, and stop")
    add(
        "--scenarios",
        type=choices.names,
        default=list(SCENARIOS),
        metavar="NAME,...",
        help="what to measure",
    )
    add("--repeats", type=positive_int, default=5, metavar="N", help="sessions of each candidate")
    add("--window-s", type=float, default=5.0, metavar="S", help="how long a session counts")
    add("--quick", action="store_true", help="show that everything works; figures mean nothing")
    add("--add", action="store_true", help="keep what NAME.json has of other scenarios")
    add("--environments", type=Path, default=default_root(), metavar="DIR", help="of the peers")
    add("--results", type=Path, default=result_files.RESULTS, metavar="DIR", help="where to write")
    add("--name", default="streaming", help="of the files written: NAME.json, NAME.md, NAME.png")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; the process's own when None.

    Returns:
        The exit code: 0, 1 if a scenario failed, 2 if nothing could be measured, 130 if a person
        stopped it.
    """
    args = argument_parser().parse_args(argv)
    environments = Environments(args.environments.absolute())
    with tempfile.TemporaryDirectory() as folder:
        try:
            programs = compile_programs(Path(folder))
            candidates = all_candidates(environments, programs)
            if args.list:
                choices.show(candidates.values())
                return 0
            chosen = choices.choose(args.candidates, candidates)
            choices.require_scenarios(args.scenarios, list(SCENARIOS))
            processors = choose_processors()
        except (ValueError, OSError, subprocess.CalledProcessError) as error:
            print(error, file=sys.stderr)
            return 2
        results = _earlier_or_new(args, _settings(args, environments))
        try:
            _measure(chosen, args, programs, processors, results)
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            return 130
    print(_report(results))
    if results.metrics():
        result_files.plot(args.results, args.name, "streaming.plot", environments)
    return 1 if any(results.failures.values()) else 0


def _settings(args: argparse.Namespace, environments: Environments) -> dict[str, Any]:
    return {
        "machine": machine(),
        "revision": revision(),
        "versions": environments.versions(),
        "repeats": args.repeats,
        "window_s": args.window_s,
        "quick": args.quick,
    }


def _earlier_or_new(args: argparse.Namespace, settings: dict[str, Any]) -> StreamingResults:
    """What the figures are added to."""
    path: Path = args.results / f"{args.name}.json"
    if not args.add or not path.exists():
        return StreamingResults(settings)
    earlier = StreamingResults.from_json(json.loads(path.read_text()))
    earlier.settings = settings
    return earlier


def _measure(
    candidates: Sequence[Candidate],
    args: argparse.Namespace,
    programs: Programs,
    processors: Processors,
    results: StreamingResults,
) -> None:
    """All repeats of all candidates in each scenario, in turn."""
    args.results.mkdir(parents=True, exist_ok=True)
    window = QUICK_WINDOW if args.quick else Window(SETTLE_S, args.window_s)
    for name in args.scenarios:
        scenario = SCENARIOS[name]
        present = [each for each in candidates if each.serves(scenario)]
        _forget(present, scenario, results)
        for _ in range(args.repeats):
            for candidate in present:
                results.load_averages.append(round(os.getloadavg()[0], 2))
                session = run_session(candidate, scenario, programs, processors, window)
                results.add_session(candidate.name, candidate.role, name, session)
                result_files.write(args.results, args.name, results, _report(results))


def _forget(candidates: Sequence[Candidate], scenario: Scenario, results: StreamingResults) -> None:
    for each in candidates:
        results.forget(each.name, scenario.key)


def _report(results: StreamingResults) -> str:
    quick = ["A quick run: the figures mean nothing."] if results.settings["quick"] else []
    return "\n".join([results.table(), "", *quick, *results.remarks()])
