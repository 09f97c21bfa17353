"""A C thread that runs one Python callable and is made to be joined.

One idea: it never touches threading, _thread or gevent, so nothing that it waits for can
belong to the hub, and it can be joined for certain before the interpreter finalises.
"""

from collections.abc import Callable
from typing import final

DEFAULT_STACK_BYTES: int
MIN_STACK_BYTES: int

@final
class NativeThread:
    """A C thread running one Python callable, outside threading and gevent.

    The thread takes no signals: Python's handlers run in the main thread. The object lives
    at least as long as the thread runs. One that is never joined is detached; in a forked
    child, which has no such thread, it counts as ended.

    Args:
        target: Called once, in the new thread. It must not log, and must not wait for
            anything that a greenlet holds.
        name: Shown by debuggers and by `ps -L`, there cut to 15 bytes.
        stack_bytes: Size of the thread's stack.

    Raises:
        TypeError: The target cannot be called.
        ValueError: The stack is smaller than MIN_STACK_BYTES.
        MemoryError: There is no memory for it.
    """

    def __init__(self, target: Callable[[], object], name: str, stack_bytes: int = ...) -> None: ...
    @property
    def name(self) -> str:
        """The name as given."""

    @property
    def alive(self) -> bool:
        """Whether the thread was started and has not ended. Any thread."""

    @property
    def native_id(self) -> int | None:
        """The kernel's id of the thread; None until it runs. Any thread."""

    @property
    def error(self) -> BaseException | None:
        """What left the target, if anything did; final once the thread has ended.

        Its traceback was also written to file descriptor 2, past sys.stderr and logging.
        """

    def start(self) -> None:
        """Start the thread. Any thread.

        Raises:
            RuntimeError: It was started before, or the system cannot start a thread.
        """

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait, without the GIL, until the thread has ended. Any thread, any number of times.

        True means that its stack and thread-local storage are gone too. In the main thread
        signal handlers run meanwhile, and what they raise ends the wait.

        Args:
            timeout_s: Longest wait; 0 never waits, None has no limit.

        Returns:
            Whether it has ended.

        Raises:
            RuntimeError: It was never started, or is the calling thread.
        """
