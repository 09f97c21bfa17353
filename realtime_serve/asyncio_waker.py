"""Waiting for the inference thread in asyncio: an event loop costs one wake-up a step.

    inference thread                          event loop
      waker.add(parker) ...                     await parker.wait(timeout_s)
      waker.flush()  --call_soon_threadsafe-->  wakes every task that was added

An AsyncioParker belongs to its loop, but is a thread's parker as well: plain iteration stops
whichever thread it is in, be that one of a pool or, as in a notebook, the loop's own, where no
callback could end the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import weakref
from typing import ClassVar

from realtime_serve.native import Parker, ThreadParker, Waker, new_parker


class AsyncioWaker(Waker):
    """Schedules one callback in a loop; `_armed` keeps it to one until that has run.

    The set's add and pop are atomic under the GIL, and `_armed` is cleared before the set is
    emptied, so an add between the two is seen or schedules again.

    Args:
        loop: Whose tasks to wake.
    """

    _wakers: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioWaker]] = (
        weakref.WeakKeyDictionary()
    )

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> AsyncioWaker:
        """The loop's waker, made at its first use on the loop's own thread."""
        waker = cls._wakers.get(loop)
        if waker is None:
            waker = cls._wakers[loop] = cls(loop)
        return waker

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ready: set[asyncio.Future[None]] = set()
        self._armed = False
        # What wakes tasks needs no variables; without this one each wake-up would copy those of a
        # thread. One for each loop: no two of them may be in the same context at once.
        self._no_variables = contextvars.Context()
        # Weak: the mapping's value must not keep its key alive.
        self._loop = weakref.ref(loop)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, while it exists."""
        return self._loop()

    def add(self, parker: Parker) -> None:
        """See Waker."""
        assert isinstance(parker, AsyncioParker)
        parker.unpark()
        future = parker.awaited  # after the signal: whoever has not seen that is seen here
        if future is not None:
            self._ready.add(future)

    def flush(self) -> None:
        """See Waker."""
        loop = self.loop
        if self._armed or not self._ready or loop is None:
            return
        self._armed = True
        try:
            self._schedule(loop)
        except BaseException:
            self._armed = False  # or nobody would be woken ever again
            raise

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(self._wake_all, context=self._no_variables)
        except RuntimeError:
            # A loop that is closed leaves nobody to wake; that is its own affair, and not the
            # inference thread's. Asking first would race with the closing.
            if not loop.is_closed():
                raise

    def _wake_all(self) -> None:
        self._armed = False
        while self._ready:
            _settle(self._ready.pop())


class AsyncioParker(ThreadParker):
    """Where one task waits, or one thread.

    Args:
        waker: That of its loop.

    Attributes:
        awaited: What the waiting task awaits; None if none waits. Written in the loop.
    """

    def __init__(self, waker: AsyncioWaker) -> None:
        super().__init__()
        self.waker: AsyncioWaker = waker
        self.awaited: asyncio.Future[None] | None = None

    @classmethod
    def of_running_loop(cls) -> AsyncioParker:
        """A parker for the calling coroutine."""
        return cls(AsyncioWaker.of(asyncio.get_running_loop()))

    async def wait(self, timeout_s: float | None = None) -> None:
        """As `park`, in the loop; the inference thread wakes it through the waker only.

        Args:
            timeout_s: Longest wait; None has no limit.

        Raises:
            RuntimeError: Another task waits here.
        """
        if self.awaited is not None:
            raise RuntimeError("Another task waits for this stream: it has one consumer at a time.")
        loop = asyncio.get_running_loop()
        future = self.awaited = loop.create_future()
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(self._stop_waiting)
            if self._take_signal():
                return
            if timeout_s is not None:
                timer = loop.call_later(max(timeout_s, 0.0), _settle, future)
                cleanup.callback(timer.cancel)
            await future

    def _stop_waiting(self) -> None:
        self.awaited = None
        self._take_signal()  # whoever has waited looks before it waits again

    def _take_signal(self) -> bool:
        return self._signal.acquire(blocking=False)


def current_parker() -> Parker:
    """A parker that suits the caller: its gevent hub's, its running loop's or its thread's."""
    parker = new_parker()
    if type(parker) is not ThreadParker:
        return parker
    try:
        return AsyncioParker.of_running_loop()
    except RuntimeError:  # there is no running loop
        return parker


def loop_parker(parker: Parker) -> AsyncioParker:
    """The parker for a coroutine whose stream has `parker`.

    Args:
        parker: The stream's; a thread's or a hub's is replaced, since no loop can wait there.

    Returns:
        One of the running loop.

    Raises:
        RuntimeError: The stream belongs to another loop.
    """
    if not isinstance(parker, AsyncioParker):
        return AsyncioParker.of_running_loop()
    if parker.waker.loop is not asyncio.get_running_loop():
        raise RuntimeError(
            "This stream was opened in another event loop, or is read there: read it in that one."
        )
    return parker


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
