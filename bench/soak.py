"""Let streams come and go for an hour, and see whether the server keeps anything of them.

    python bench/soak.py --minutes 60
    python bench/soak.py --streams 10000

The idea: what is kept shows only when nobody is there. So clients come in rounds, and after each,
once all streams have ended, what the server holds is weighed: its memory, its descriptors, its
greenlets and its KV blocks. The first rounds do not count, in which caches fill and pools grow.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_test import positive_int
from peers.processes import (
    Launch,
    ServerFailedError,
    ServerProcess,
    free_port,
    pss_bytes,
    session_members,
    started,
)
from soak_clients import Clients

MAX_GROWTH = 0.01
"""Of the memory, over the rounds that count: what the slope of a line through them makes of it."""

WARM_UP_SHARE = 0.25

MIN_ROUNDS = 8
"""Two of them do not count then, and six points make a line."""

READY_TIMEOUT_S = 300.0

IDLE_TIMEOUT_S = 30.0
"""A server that still holds something of its streams by then will not let go of it."""

NUM_LAST = 3
"""What is kept is there after each of the last rounds; what was only late once is not kept."""

NUM_LOOKS = 3
LOOK_S = 0.02
"""The last connection may be on its way out at one look, and not at all three."""

KV_CACHE_BYTES = "64MiB"
"""Small, so that it has soon been written once, and that sequences have to fight for it."""

MIB = 2**20

HEADER = "| minutes | clients | memory, MiB | descriptors | greenlets | KV blocks in use |"

_KV_USAGE = re.compile(r"^vllm:kv_cache_usage_perc\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the server holds while nobody is there.

    Args:
        num_clients: How many have been there.
        minutes: Since the beginning.
        memory_bytes: Of its processes, without the files that others may map as well.
        num_descriptors: Of its processes.
        num_greenlets: Of its worker.
        kv_usage: Share of the KV blocks that are in use.
    """

    num_clients: int
    minutes: float
    memory_bytes: int
    num_descriptors: int
    num_greenlets: int
    kv_usage: float

    def row(self) -> str:
        """For the table."""
        return (
            f"| {self.minutes:.1f} | {self.num_clients} | {self.memory_bytes / MIB:.1f} "
            f"| {self.num_descriptors} | {self.num_greenlets} | {self.kv_usage:.1%} |"
        )


def weigh(server: ServerProcess, clients: Clients, minutes: float) -> Holdings:
    """What the server holds once its last stream has ended."""
    give_up_at_s = time.monotonic() + IDLE_TIMEOUT_S
    while clients.figures()[0] > 0 and time.monotonic() < give_up_at_s:
        time.sleep(0.05)
    (usage,) = map(float, _KV_USAGE.findall(clients.metrics()))
    looks = [_look(server, clients) for _ in range(NUM_LOOKS)]
    return Holdings(
        num_clients=clients.num_visits,
        minutes=minutes,
        memory_bytes=sum(pss_bytes(pid, "Pss_Anon") for pid in session_members(server.session_id)),
        num_descriptors=min(num_descriptors for num_descriptors, _ in looks),
        num_greenlets=min(num_greenlets for _, num_greenlets in looks),
        kv_usage=usage,
    )


def _look(server: ServerProcess, clients: Clients) -> tuple[int, int]:
    """Descriptors and greenlets of this instant."""
    _, num_greenlets = clients.figures()
    time.sleep(LOOK_S)
    pids = session_members(server.session_id)
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids), num_greenlets


def rounds(server: ServerProcess, clients: Clients, args: argparse.Namespace) -> Iterator[Holdings]:
    """Have clients come, round by round, and weigh after each."""
    start_s = time.monotonic()

    def minutes() -> float:
        return (time.monotonic() - start_s) / 60

    num_rounds = 0
    while num_rounds < MIN_ROUNDS or not _is_enough(args, clients.num_visits, minutes()):
        clients.visit(args.round)
        num_rounds += 1
        yield weigh(server, clients, minutes())


def _is_enough(args: argparse.Namespace, num_visits: int, minutes: float) -> bool:
    if args.minutes:
        return minutes >= float(args.minutes)
    return num_visits >= int(args.streams)


def growth_of(memory_bytes: Sequence[int]) -> float:
    """By which share of itself memory grows from the first value to the last, as a line has it."""
    line = statistics.linear_regression(range(len(memory_bytes)), memory_bytes)
    return line.slope * (len(memory_bytes) - 1) / statistics.fmean(memory_bytes)


def verdict(holdings: Sequence[Holdings], troubles: Sequence[str]) -> list[str]:
    """What is wrong with the rounds that count, in a sentence each; nothing if all is well."""
    counted = holdings[int(len(holdings) * WARM_UP_SHARE) :]
    growth = growth_of([each.memory_bytes for each in counted])
    faults = list(troubles)
    if growth > MAX_GROWTH:
        faults.append(f"memory grew by {growth:.1%}")
    last = counted[-NUM_LAST:]
    if min(each.num_descriptors for each in last) > counted[0].num_descriptors:
        faults.append("descriptors were not given back")
    if min(each.num_greenlets for each in last) > counted[0].num_greenlets:
        faults.append("greenlets have not ended")
    if min(each.kv_usage for each in last) > 0:
        faults.append("KV blocks were not given back")
    return faults


# --- the command ----------------------------------------------------------------


def launch(port: int) -> Launch:
    """How the server is started: as the package sets gunicorn up."""
    here = Path(__file__).parent
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:realtime_serve.gunicorn_conf"]
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    return Launch(
        command=[*gunicorn, f"--bind=127.0.0.1:{port}", "soak_app:app"],
        environ={
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "REALTIME_SERVE_KV_CACHE_BYTES": KV_CACHE_BYTES,
        },
        ready_path="/health/ready",
    )


def soak(args: argparse.Namespace) -> list[str]:
    """Run everything, and print a line a round.

    Raises:
        ServerFailedError: The server did not start.
    """
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        started(launch(port), port, Path(folder)) as server,
    ):
        server.wait_until_ready(READY_TIMEOUT_S)
        clients = Clients(port, args.concurrency)
        print(f"{HEADER}\n|---:|---:|---:|---:|---:|---:|", flush=True)
        holdings = []
        for each in rounds(server, clients, args):
            holdings.append(each)
            print(each.row(), flush=True)
        return verdict(holdings, clients.troubles)


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="soak.py",
        description="Let streams come and go, and see whether the server keeps anything of them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, help="for how long, instead of --streams")
    add("--streams", type=positive_int, default=10_000, metavar="N", help="how many clients")
    add("--round", type=positive_int, default=400, metavar="N", help="how many before each look")
    add("--concurrency", type=positive_int, default=16, metavar="N", help="how many at once")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; the process's own when None.

    Returns:
        The exit code: 0, 1 if the server kept something or a client was served wrongly, 2 if the
        server did not start, 130 if a person stopped it.
    """
    args = argument_parser().parse_args(argv)
    try:
        faults = soak(args)
    except ServerFailedError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    print("\n".join(["", *faults] if faults else ["", "Nothing was kept."]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
