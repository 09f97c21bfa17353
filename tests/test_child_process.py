from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from realtime_serve.child_process import PASSED_DESCRIPTOR, ChildProcess
from realtime_serve.native import NativeThread
from support.processes import is_running

SHOW_SIGNALS = """
import signal
print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))))
"""

SHOW_DESCRIPTORS = """
import os
print(*sorted(os.listdir("/proc/self/fd"), key=int))
"""

SLEEP = "import time; print('asleep', flush=True); time.sleep(600)"


def python(script: str, *arguments: str, passed: int | None = None) -> ChildProcess:
    command = [sys.executable, "-c", script, *arguments]
    return ChildProcess(command, dict(os.environ), passed)


def output(script: str, *arguments: str, passed: int | None = None) -> list[str]:
    with python(script, *arguments, passed=passed) as child:
        return [line.decode() for line in child.lines()]


def open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_lines_come_as_they_are_written() -> None:
    assert output("print('one'); print(); print('three')") == ["one", "", "three"]


def test_a_line_may_be_longer_than_the_pipe_and_without_an_end() -> None:
    assert output("print('x' * 300_000, end='')") == ["x" * 300_000]


def test_a_silent_child_gives_empty_lines_so_that_its_reader_can_look_around() -> None:
    with python(SLEEP) as child:
        lines = child.lines(max_silence_s=0.01)
        said = [next(lines) for _ in range(3)]
        while b"asleep" not in said:
            said.append(next(lines))
        assert [next(lines) for _ in range(3)] == [b"", b"", b""]
    assert set(said) == {b"", b"asleep"}


def test_a_pause_within_a_line_does_not_cut_it() -> None:
    slowly = "import time; print('o', end='', flush=True); time.sleep(0.1); print('ne')"
    with python(slowly) as child:
        lines = list(child.lines(max_silence_s=0.01))
    assert [line for line in lines if line] == [b"one"]


def test_a_child_that_says_nothing_has_no_lines() -> None:
    assert output("pass") == []


def test_arguments_and_environment_are_the_childs() -> None:
    command = [sys.executable, "-c", "import os, sys; print(sys.argv[1:], *os.environ)", "a b"]
    with ChildProcess(command, {"PYTHONCOERCECLOCALE": "0", "X": "y"}) as child:
        assert [*child.lines()] == [b"['a b'] PYTHONCOERCECLOCALE X"]


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("pass", 0),
        ("raise SystemExit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_its_end_is_its_status_or_its_signal(script: str, status: int) -> None:
    with python(script) as child:
        assert list(child.lines()) == []
        assert child.wait() == status


def test_a_status_that_somebody_else_has_taken_is_unknown() -> None:
    with python("pass") as child:
        assert list(child.lines()) == []
        os.waitid(os.P_PID, child.pid, os.WEXITED)
        assert child.wait() is None


def test_leaving_ends_the_child() -> None:
    with python(SLEEP + "; #") as child:
        assert next(child.lines()) == b"asleep"
        pid = child.pid
        assert is_running(pid)
    assert not is_running(pid)


def test_a_child_that_has_gone_can_be_left(capfd: pytest.CaptureFixture[str]) -> None:
    with python("pass") as child:
        assert list(child.lines()) == []
        os.waitid(os.P_PID, child.pid, os.WEXITED)
    assert capfd.readouterr() == ("", "")


def test_a_missing_program_is_an_error_and_leaves_no_descriptor() -> None:
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        ChildProcess(["/no/such/program"], {})
    assert open_descriptors() == before


def test_no_descriptor_stays_open() -> None:
    before = open_descriptors()
    output("print('x')")
    assert open_descriptors() == before


def test_a_child_has_the_standard_descriptors_and_none_that_we_opened() -> None:
    ours = os.dup2(1, 200, inheritable=False)
    try:
        (listed,) = output(SHOW_DESCRIPTORS)
    finally:
        os.close(ours)
    assert listed.startswith("0 1 2 ")
    assert str(ours) not in listed.split()


def test_a_child_reads_nothing_from_our_input() -> None:
    assert output("import sys; print(repr(sys.stdin.read()))") == ["''"]


def test_a_descriptor_can_be_passed(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+") as file:
        output(f"import os; os.write({PASSED_DESCRIPTOR}, b'from the child')", passed=file.fileno())
    assert (tmp_path / "file").read_text() == "from the child"


def test_on_a_native_thread_a_child_starts_with_no_signal_blocked() -> None:
    """Such a thread blocks all signals, and a child would inherit that."""
    lines: list[str] = []
    thread = NativeThread(lambda: lines.extend(output(SHOW_SIGNALS)), "test")
    thread.start()
    assert thread.join(60)
    assert thread.error is None
    assert lines == ["[]"]


def test_ctrl_c_is_not_the_childs() -> None:
    """A terminal sends it to a process group, and the child has one of its own."""
    with python("import os; print(os.getpgrp())") as child:
        assert [int(line) for line in child.lines()] == [child.pid]
        assert child.pid != os.getpgrp()


def test_signals_that_we_ignore_are_not_ignored_by_the_child() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert output("import signal; print(signal.getsignal(signal.SIGTERM).name)") == ["SIG_DFL"]
    finally:
        signal.signal(signal.SIGTERM, before)
