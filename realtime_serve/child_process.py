"""ChildProcess: a fresh program whose output a native thread reads, line by line.

Not the standard library's subprocess: gevent patches that, and a native thread can use neither
its waiting nor its locks. Nor does anything here depend on the exit status: where gevent
watches children, it may be gone before it can be asked for. What a child has to say it writes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from realtime_serve.native import original

PASSED_DESCRIPTOR = 3
"""Under this number the child finds the descriptor that it is passed."""

READ_AT_ONCE = 65536

_STDIN, _STDOUT = 0, 1


class ChildProcess:
    """A running child; one thread uses it. As a context manager it ends the child.

    Args:
        command: The program's path and its arguments.
        environment: Its whole environment.
        passed: A descriptor for the child, as PASSED_DESCRIPTOR.

    Raises:
        OSError: It could not be started.

    Attributes:
        pid: The child's process id.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], passed: int | None = None
    ) -> None:
        self._output, child_end = os.pipe()
        try:
            self.pid: int = original("os", "posix_spawn")(
                command[0],
                command,
                environment,
                file_actions=_file_actions(child_end, passed),
                setpgroup=0,  # Ctrl-C is for us; we end the child then
                setsigmask=(),  # native threads block all signals
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
            )
        except BaseException:
            _close(self._output)
            raise
        finally:
            _close(child_end)
        self._reaped = False

    def __enter__(self) -> Self:
        """Use the child as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill the child if it still runs."""
        _close(self._output)
        if not self._reaped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def lines(self, max_silence_s: float | None = None) -> Iterator[bytes]:
        """What the child writes to its standard output, until it closes that. Waits natively.

        Args:
            max_silence_s: An empty line comes when the child has written nothing for so long,
                so that its reader can look after other things; None has no limit.

        Returns:
            Its lines, without their ends.
        """
        pending = b""
        while (chunk := self._read(max_silence_s)) != b"":
            if chunk is None:
                yield b""
                continue
            *lines, pending = (pending + chunk).split(b"\n")
            yield from lines
        if pending:
            yield pending

    def _read(self, timeout_s: float | None) -> bytes | None:
        """What the child has written, nothing at its end; None if the timeout passed first."""
        poll = original("select", "poll")()
        poll.register(self._output, select.POLLIN)
        if not poll.poll(None if timeout_s is None else timeout_s * 1000):
            return None
        return os.read(self._output, READ_AT_ONCE)

    def wait(self) -> int | None:
        """Wait for the child's end.

        Returns:
            Its exit status, or minus the signal that ended it; None if somebody else has
            asked for it before.
        """
        self._reaped = True
        try:
            _, status = original("os", "waitpid")(self.pid, 0)
        except ChildProcessError:
            return None
        return os.waitstatus_to_exitcode(status)


def _file_actions(output: int, passed: int | None) -> list[tuple[object, ...]]:
    actions: list[tuple[object, ...]] = [
        (os.POSIX_SPAWN_OPEN, _STDIN, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, _STDOUT),
    ]
    if passed is not None:
        actions.append((os.POSIX_SPAWN_DUP2, passed, PASSED_DESCRIPTOR))
    return actions


def _close(descriptor: int) -> None:
    original("os", "close")(descriptor)
