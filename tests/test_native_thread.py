"""NativeThread: a C thread that is joined, survives being dropped, and says why it died."""

from __future__ import annotations

import _thread
import ctypes
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from pathlib import Path

import pytest

from realtime_serve import _native_thread
from realtime_serve._batch_queue import BatchQueue
from realtime_serve._native_thread import DEFAULT_STACK_BYTES, MIN_STACK_BYTES, NativeThread

HANG_S = 60
"""After this a child that should end at once counts as stuck."""


class Gate:
    """Holds a native thread, in C and without the GIL, until it is opened."""

    def __init__(self) -> None:
        self._queue = BatchQueue(1)

    def wait(self) -> None:
        self._queue.take(0, None)

    def open(self) -> None:
        self._queue.close()


def run_to_end(thread: NativeThread) -> NativeThread:
    thread.start()
    assert thread.join()
    return thread


def do_nothing() -> None:
    pass


# --- life -----------------------------------------------------------------------


def test_target_runs_once_on_a_kernel_thread_of_its_own() -> None:
    runs: list[int] = []
    thread = run_to_end(NativeThread(lambda: runs.append(_thread.get_native_id()), "once"))

    assert runs == [thread.native_id]
    assert thread.native_id != _thread.get_native_id()


def test_thread_is_alive_from_start_to_end() -> None:
    gate = Gate()
    thread = NativeThread(gate.wait, "alive")
    seen = [thread.alive]
    assert thread.native_id is None

    thread.start()
    seen.append(thread.alive)
    gate.open()
    assert thread.join()
    seen.append(thread.alive)
    assert seen == [False, True, False]


def test_join_that_times_out_returns_false_after_the_timeout_and_may_be_repeated() -> None:
    gate = Gate()
    thread = NativeThread(gate.wait, "slow")
    thread.start()

    started_at_s = time.monotonic()
    assert thread.join(0.12) is False
    assert time.monotonic() - started_at_s >= 0.12
    assert thread.join(0) is False
    gate.open()
    assert thread.join() is True
    assert thread.join(0) is True


def test_join_waits_without_the_gil() -> None:
    count = 0

    def count_for_many_switch_intervals() -> None:
        nonlocal count
        for _ in range(1_000_000):
            count += 1

    run_to_end(NativeThread(count_for_many_switch_intervals, "busy"))

    assert count == 1_000_000


def test_several_threads_may_join() -> None:
    gate = Gate()
    joined: list[bool] = []
    thread = NativeThread(gate.wait, "joined")
    thread.start()
    joiners = [NativeThread(lambda: joined.append(thread.join()), "joiner") for _ in range(3)]
    for joiner in joiners:
        joiner.start()
    gate.open()
    for joiner in joiners:
        assert joiner.join()

    assert joined == [True] * 3


def test_second_start_is_refused() -> None:
    thread = run_to_end(NativeThread(do_nothing, "twice"))
    with pytest.raises(RuntimeError, match="only once"):
        thread.start()


def test_join_before_start_is_refused() -> None:
    with pytest.raises(RuntimeError, match="must be started"):
        NativeThread(do_nothing, "unstarted").join()


def test_join_of_itself_is_refused() -> None:
    threads: list[NativeThread] = []
    refusals: list[str] = []

    def join_myself() -> None:
        try:
            threads[0].join()
        except RuntimeError as error:
            refusals.append(str(error))

    threads.append(NativeThread(join_myself, "narcissus"))
    run_to_end(threads[0])

    assert refusals == ["A native thread cannot join itself."]


def test_target_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="target must be callable, not int"):
        NativeThread(3, "wrong")  # type: ignore[arg-type]


# --- references -----------------------------------------------------------------


class Target:
    """A target that can be weakly referenced."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __call__(self) -> None:
        self._gate.wait()


def test_target_is_let_go_when_it_has_returned() -> None:
    gate = Gate()
    target = Target(gate)
    alive = weakref.ref(target)
    gate.open()
    thread = run_to_end(NativeThread(target, "done"))
    del target

    assert alive() is None
    assert thread.error is None


def test_thread_that_nobody_holds_runs_to_its_end_and_is_freed() -> None:
    gate = Gate()
    target = Target(gate)
    alive = weakref.ref(target)
    NativeThread(target, "dropped").start()
    del target
    time.sleep(0.02)
    assert alive() is not None

    gate.open()
    while alive() is not None:
        time.sleep(0.001)


def test_thread_that_was_never_started_is_freed() -> None:
    target = Target(Gate())
    alive = weakref.ref(target)
    thread = NativeThread(target, "unstarted")
    del target, thread

    assert alive() is None


# --- what the system sees ---------------------------------------------------------


def stack_bytes_of_this_thread() -> int:
    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_void_p
    attributes = (ctypes.c_char * 128)()
    num_bytes = ctypes.c_size_t()
    assert libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attributes) == 0
    assert libc.pthread_attr_getstacksize(attributes, ctypes.byref(num_bytes)) == 0
    libc.pthread_attr_destroy(attributes)
    return num_bytes.value


@pytest.mark.parametrize("stack_bytes", [MIN_STACK_BYTES, DEFAULT_STACK_BYTES, 2**26])
def test_stack_has_the_size_that_was_asked_for(stack_bytes: int) -> None:
    sizes: list[int] = []
    thread = NativeThread(lambda: sizes.append(stack_bytes_of_this_thread()), "big", stack_bytes)
    run_to_end(thread)

    assert sizes == [stack_bytes]


def test_stack_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="stack_bytes must be at least"):
        NativeThread(do_nothing, "small", MIN_STACK_BYTES - 1)


def test_start_that_the_system_refuses_says_so_and_keeps_nothing() -> None:
    target = Target(Gate())
    alive = weakref.ref(target)
    thread = NativeThread(target, "huge", 2**60)
    with pytest.raises(RuntimeError, match="The system cannot start a thread"):
        thread.start()
    assert not thread.alive

    del target, thread
    assert alive() is None


@pytest.mark.parametrize("name", ["engine", "a name that is too long", "é" * 10])
def test_kernel_shows_the_first_15_bytes_of_the_name(name: str) -> None:
    shown: list[bytes] = []

    def read_name() -> None:
        path = Path(f"/proc/self/task/{_thread.get_native_id()}/comm")
        shown.append(path.read_bytes().rstrip(b"\n"))

    thread = run_to_end(NativeThread(read_name, name))

    assert shown == [name.encode()[:15]]
    assert thread.name == name


def test_signals_are_blocked_in_the_thread_but_for_faults() -> None:
    blocked: set[signal.Signals | int] = set()
    thread = NativeThread(
        lambda: blocked.update(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "masked"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    run_to_end(thread)

    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1} <= blocked
    assert not {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT} & blocked
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_threading_does_not_know_the_thread() -> None:
    before = threading.active_count()
    gate = Gate()
    thread = NativeThread(gate.wait, "unknown")
    thread.start()
    assert threading.active_count() == before

    gate.open()
    thread.join()


# --- a target that raises -----------------------------------------------------------


def fail() -> None:
    raise ZeroDivisionError("the reason \ud800")


def test_error_is_kept_and_its_traceback_is_written_past_sys_stderr(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    thread = run_to_end(NativeThread(fail, "engine"))
    written = capfd.readouterr().err

    assert isinstance(thread.error, ZeroDivisionError)
    assert written.startswith("Exception in native thread 'engine':\nTraceback")
    assert written.endswith("ZeroDivisionError: the reason \\ud800\n")
    assert "in fail\n" in written


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, MemoryError])
def test_every_kind_of_exception_is_kept(
    kind: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    def leave() -> None:
        raise kind

    thread = run_to_end(NativeThread(leave, "engine"))

    assert type(thread.error) is kind
    assert kind.__name__ in capfd.readouterr().err


def test_error_that_cannot_be_formatted_is_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(error: BaseException) -> list[str]:
        raise RecursionError

    monkeypatch.setattr(traceback, "format_exception", refuse)
    run_to_end(NativeThread(fail, "engine"))

    assert "ZeroDivisionError (its traceback cannot be formatted)" in capfd.readouterr().err


# --- whole processes ----------------------------------------------------------------

# A package of that name and nothing in it: the extensions are imported without the server.
PREAMBLE = f"""
import os, sys, types
sys.modules["realtime_serve"] = package = types.ModuleType("realtime_serve")
package.__path__ = [{str(Path(_native_thread.__file__).parent)!r}]
from realtime_serve._batch_queue import BatchQueue
from realtime_serve._native_thread import NativeThread
queue = BatchQueue(1)
thread = NativeThread(lambda: queue.take(1, None), "waiter")
thread.start()
"""


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + program],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


def test_exit_with_a_running_thread_that_nobody_joined_is_clean() -> None:
    result = run_program("print('leaving')")

    assert (result.returncode, result.stdout, result.stderr) == (0, "leaving\n", "")


def test_thread_counts_as_ended_in_a_forked_child() -> None:
    result = run_program("""
child = os.fork()
if child == 0:
    is_right = not thread.alive and thread.join() is True
    del thread
    os._exit(0 if is_right else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), thread.alive, thread.join(0))
""")

    assert result.stdout == "0 True False\n"
    assert result.returncode == 0


def test_ctrl_c_ends_a_join_in_the_main_thread_but_not_the_thread() -> None:
    program = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
print("waiting", flush=True)
try:
    thread.join()
except KeyboardInterrupt:
    alive = thread.alive
    queue.close()
    print(alive, thread.join())
"""
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + program], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "waiting\n"
            time.sleep(0.2)  # so that the signal finds it inside join()
            child.send_signal(signal.SIGINT)
            output, _ = child.communicate(timeout=HANG_S)
        finally:
            child.kill()  # or a failure would wait for it

    assert output == "True True\n"
    assert child.returncode == 0
