"""The command: candidates in turn, again and again, then a table, a plot and a file of figures.

Repeats are interleaved (A B C, A B C), so that a machine that slows down or is shared hurts all
candidates alike. Whatever is measured is written after each session: a run that is stopped
leaves what it has.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import choices
import result_files
from load_test import positive_int
from peers.candidates import Candidate, all_candidates
from peers.environments import Environments, default_root
from peers.machine import machine, revision
from peers.results import Results
from peers.scenarios import FULL, QUICK
from peers.session import SCENARIO_NAMES, Session


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Measure this server and its peers by the same load on the same machine.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--candidates",
        type=choices.names,
        metavar="NAME,...",
        help="the usual ones if left out",
    )
    add("--list", action="store_true", help="list the candidates and what they lack, and stop")
    add(
        "--scenarios",
        type=choices.names,
        default=list(SCENARIO_NAMES),
        metavar="NAME,...",
        help="what to measure",
    )
    add("--repeats", type=positive_int, default=3, metavar="N", help="sessions of each candidate")
    add("--quick", action="store_true", help="show that everything works; figures mean nothing")
    add("--seed", type=int, default=0, help="fixes the prompts")
    add("--environments", type=Path, default=default_root(), metavar="DIR", help="of the peers")
    add("--results", type=Path, default=result_files.RESULTS, metavar="DIR", help="where to write")
    add("--name", default="peers", help="of the files written: NAME.json, NAME.md, NAME.png")
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
    candidates = all_candidates(environments)
    if args.list:
        choices.show(candidates.values())
        return 0
    try:
        usual = [each for each in candidates.values() if each.by_default]
        chosen = choices.choose(args.candidates, candidates, usual)
        choices.require_scenarios(args.scenarios, SCENARIO_NAMES)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    results = Results(_settings(args, environments))
    try:
        _measure(chosen, args, environments, results)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    print(_report(results))
    if results.metrics():
        result_files.plot(args.results, args.name, "peers.plot", environments)
    return 1 if results.failures else 0


def _settings(args: argparse.Namespace, environments: Environments) -> dict[str, Any]:
    return {
        "machine": machine(),
        "revision": revision(),
        "versions": environments.versions(),
        "scenarios": args.scenarios,
        "repeats": args.repeats,
        "quick": args.quick,
        "seed": args.seed,
    }


def _measure(
    candidates: Sequence[Candidate],
    args: argparse.Namespace,
    environments: Environments,
    results: Results,
) -> None:
    """All repeats of all candidates, in turn."""
    args.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        for repeat in range(args.repeats):
            for candidate in candidates:
                results.load_averages.append(round(os.getloadavg()[0], 2))
                scale = QUICK if args.quick else FULL
                session = Session(candidate, Path(cache), scale, seed=args.seed + repeat)
                results.add(candidate.name, session.run(args.scenarios))
                result_files.write(args.results, args.name, results, _report(results))


def _report(results: Results) -> str:
    quick = ["A quick run: the figures mean nothing."] if results.settings["quick"] else []
    return "\n".join([results.table(), "", *quick, *results.remarks()])
