"""The only module that knows about monkey-patching.

Under gevent, `threading`, `queue` and `time.sleep` are cooperative and cannot be
used between OS threads: their waiters are greenlets that another thread cannot
wake. What crosses from the inference thread to a consumer goes through a Parker
(one waiting place per stream) and a Waker (one per hub, or per waiting thread):

    inference thread                    consumer
      waker.add(parker) ...               parker.park(timeout_s)
      waker.flush()        --- once --->  wakes every added parker

A hub costs one wake-up a step however many streams got tokens. Everything else
here is the native form of what patching replaces: lock, thread, pause.
"""

from __future__ import annotations

import _thread
import abc
import contextlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar

from realtime_serve._native_thread import NativeThread as NativeThread

T = TypeVar("T")

LONGEST_PARK_S = 3600.0
"""A hub with nothing but parked greenlets would think it has deadlocked: each park
holds a timer, and this bounds those without a timeout. Waking for nothing is allowed."""


def original(module: str, name: str) -> Any:
    """The unpatched object, whether or not gevent has patched the module.

    For native threads: what patching puts in its place waits in a hub, and they have none.

    Args:
        module: A module that has been imported.
        name: What to take from it.

    Returns:
        The standard library's own.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(sys.modules[module], name)
    return monkey.get_original(module, name)


class Lock:
    """A native mutex as a context manager.

    Guards state that request threads share. Never hold it across a wait: under gevent
    a greenlet that switches away inside it stops the whole hub.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock: _thread.LockType = original("_thread", "allocate_lock")()

    def __enter__(self) -> Self:
        """Lock, waiting natively."""
        self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unlock."""
        self._lock.release()

    def try_acquire(self) -> bool:
        """Lock if nobody holds it; the caller then has to call release()."""
        return self._lock.acquire(blocking=False)

    def release(self) -> None:
        """Unlock what try_acquire() has locked."""
        self._lock.release()


class Parker(abc.ABC):
    """A place where one consumer waits until the inference thread has something for it.

    A wake-up that comes while nobody is parked is remembered: the next park returns at
    once. So "look, then park" loses nothing.

    Attributes:
        waker: Wakes it.
        is_left_to_work: Whether the hub's work decides when this one is woken, so that adding
            it to its waker changes nothing. Written in the hub.
    """

    waker: Waker
    is_left_to_work = False

    @abc.abstractmethod
    def park(self, timeout_s: float | None = None) -> None:
        """Wait for a wake-up or the timeout; may return early. Consumer only."""

    @abc.abstractmethod
    def unpark(self) -> None:
        """Wake the consumer. Only from the consumer's own hub or, without one, any thread."""


class Waker(abc.ABC):
    """Wakes the parkers of one hub or thread, from any native thread that holds the GIL."""

    @abc.abstractmethod
    def add(self, parker: Parker) -> None:
        """Note that `parker` is to be woken at the next flush."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Wake all that were added, with one wake-up."""


def new_parker() -> Parker:
    """A parker that suits the caller: its gevent hub if it has one, else its thread."""
    hub = current_hub()
    return ThreadParker() if hub is None else GeventParker(GeventWaker.of(hub))


# --- plain threads ------------------------------------------------------------


class _ThreadWaker(Waker):
    """Each waiting thread has its own lock, so waking is unparking."""

    def add(self, parker: Parker) -> None:
        parker.unpark()

    def flush(self) -> None:
        pass


_THREAD_WAKER = _ThreadWaker()


class ThreadParker(Parker):
    """A native lock used as a binary semaphore: held = nothing to see."""

    waker: Waker = _THREAD_WAKER

    def __init__(self) -> None:
        self._signal: _thread.LockType = original("_thread", "allocate_lock")()
        self._signal.acquire()

    def park(self, timeout_s: float | None = None) -> None:
        """See Parker."""
        wait_s = LONGEST_PARK_S if timeout_s is None else min(max(timeout_s, 0.0), LONGEST_PARK_S)
        self._signal.acquire(timeout=wait_s)

    def unpark(self) -> None:
        """See Parker."""
        with contextlib.suppress(RuntimeError):  # signalled already: it holds no more than one
            self._signal.release()


# --- gevent -------------------------------------------------------------------


class HubWork(Protocol):
    """What a hub does at each wake-up, before it wakes parkers."""

    def run(self) -> Iterable[GeventParker]:
        """Work; returns the parkers that have to be woken after it."""


class GeventWaker(Waker):
    """One async watcher per hub; `_armed` keeps it to one send until the hub has looked.

    The deque's append and popleft are atomic under the GIL, and `_armed` is cleared
    before the deque is emptied, so an add between the two is seen or sends again.

    Attributes:
        work: What the hub does first when it is woken; None is nothing.
    """

    _wakers: ClassVar[weakref.WeakKeyDictionary[Any, GeventWaker]] = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, hub: Any) -> GeventWaker:
        """The hub's waker, made at its first use on the hub's own thread."""
        waker = cls._wakers.get(hub)
        if waker is None:
            waker = cls._wakers[hub] = cls(hub)
        return waker

    def __init__(self, hub: Any) -> None:
        self._ready: deque[GeventParker] = deque()
        self._armed = False
        self.work: HubWork | None = None
        self._async = hub.loop.async_(ref=False)
        self._async.start(self._wake_all)
        self.loop = hub.loop
        # Weak: the mapping's value must not keep its key alive.
        self._hub = weakref.ref(hub)

    @property
    def hub(self) -> Any:
        """The hub, while it exists."""
        return self._hub()

    def add(self, parker: Parker) -> None:
        """See Waker."""
        assert isinstance(parker, GeventParker)
        if not parker.is_left_to_work:
            self._ready.append(parker)

    def flush(self) -> None:
        """See Waker."""
        if self._armed:
            return
        self._armed = True
        try:
            self._send()
        except BaseException:
            self._armed = False  # or nobody would be woken ever again
            raise

    def _send(self) -> None:
        try:
            self._async.send()
        except ValueError:
            # A thread that destroys its hub leaves nobody to wake; that is its own affair,
            # and not the inference thread's. Asking first would race with the destroying.
            if self.loop.ptr:
                raise

    def _wake_all(self) -> None:
        self._armed = False
        ready = self._ready
        try:
            if self.work is not None:
                ready.extend(self.work.run())
            for _ in range(len(ready)):  # those that are added meanwhile must not keep the hub busy
                ready.popleft().unpark()
        finally:
            if ready:  # they, and those behind a raw greenlet whose error comes out here
                self.flush()


class GeventParker(Parker):
    """Holds the parked greenlet; waking is a direct switch, without Event or Queue."""

    def __init__(self, waker: GeventWaker) -> None:
        self.waker: GeventWaker = waker
        self._greenlet: Any = None
        self._signalled = False

    def park(self, timeout_s: float | None = None) -> None:
        """See Parker."""
        if self._signalled:
            self._signalled = False
            return
        wait_s = LONGEST_PARK_S if timeout_s is None else min(max(timeout_s, 0.0), LONGEST_PARK_S)
        timer = self.waker.loop.timer(wait_s)
        self._greenlet = sys.modules["greenlet"].getcurrent()
        try:
            timer.start(self.unpark)
            self.waker.hub.switch()
        finally:
            self._greenlet = None
            self._signalled = False
            timer.stop()
            timer.close()

    def unpark(self) -> None:
        """See Parker."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is None:
            self._signalled = True
        else:
            greenlet.switch()


def current_hub() -> Any:
    """The gevent hub on which the caller can wait, or None.

    A raw OS thread of a patched process has no hub, and must not be given one.
    """
    local = sys.modules.get("gevent._hub_local")
    if local is None:
        return None
    hub = local.get_hub_if_exists()
    if hub is None and _is_patched() and _on_main_thread():
        hub = local.get_hub()
    return hub


def running_hub() -> Any:
    """The gevent hub that runs the caller, and so will run again by itself; None if none does.

    A thread's main greenlet has a hub once anything in it has asked for one, but that runs only
    while the greenlet waits for it: what is left to such a hub may be done late, or never.
    """
    hub = current_hub()
    if hub is None:
        return None
    caller = sys.modules["greenlet"].getcurrent()
    return hub if hub in {caller, caller.parent} else None


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def _on_main_thread() -> bool:
    return threading.get_native_id() == os.getpid()


# --- work aside ---------------------------------------------------------------


def spawn_thread(function: Callable[[], object]) -> None:
    """Have a function called in a native thread, in a patched process, too.

    It keeps the inference thread's bans. The process does not wait for its end.
    """
    original("_thread", "start_new_thread")(function, ())


def spawn(function: Callable[[], object]) -> None:
    """Have a function called soon: in a greenlet of the caller's hub or, without one, a thread.

    Unlike threading.Thread this neither waits nor locks, so that a signal handler may use it.
    The process does not wait for the function's end.
    """
    hub = current_hub()
    if hub is None:
        spawn_thread(function)
    else:
        sys.modules["gevent"].spawn(function)


def spawn_later(seconds: float, function: Callable[[], object]) -> bool:
    """Have a function called after a while, in a greenlet of the hub that runs the caller.

    Returns:
        False if there is none: then nothing will be called.
    """
    if running_hub() is None:
        return False
    sys.modules["gevent"].spawn_later(seconds, function)
    return True


def pause(seconds: float) -> None:
    """Wait, without stopping the caller's hub if it has one; returns at once if not above 0."""
    end_at_s = time.monotonic() + seconds
    parker = new_parker()
    while (remaining_s := end_at_s - time.monotonic()) > 0:
        parker.park(remaining_s)


def run_blocking(function: Callable[..., T], *arguments: Any) -> T:
    """Call something that releases the GIL for long without stopping the hub.

    Under gevent it runs in the hub's native thread pool; else right here. The function
    keeps the inference thread's bans: no logging, no locks that a greenlet can hold.
    """
    hub = current_hub()
    if hub is None:
        return function(*arguments)
    return hub.threadpool.apply(function, arguments)  # type: ignore[no-any-return]
