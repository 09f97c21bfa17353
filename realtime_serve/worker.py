"""The one loop that joins queue, engine and streams.

    load -> [ admit -> step -> deliver ] ... -> give everything back

It runs on a native thread, alone with its engine. While it serves it takes no
lock that a greenlet can hold: it does not log, wait on Python's locks, or touch
sockets or files. What it has to say goes into a bounded list of notices that the
hub logs; what the hub wants of it arrives through the queue's kick and the
rings' flags.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from realtime_serve.asyncio_waker import AsyncioParker
from realtime_serve.batch import BatchScheduler
from realtime_serve.engine.interface import Engine, EngineStats, Finished, StepOutput
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.errors import EngineError, InvalidRequestError, NotReadyError, ServeError
from realtime_serve.native import NativeThread, Parker
from realtime_serve.public_reason import public_reason
from realtime_serve.stream_feed import StreamFeed
from realtime_serve.types import FinishReason

EngineLoader: TypeAlias = Callable[[LoadWatcher], Engine]
"""Builds an engine on the inference thread, which may not log: it tells the watcher."""

MAX_NOTICES = 256
"""Bounds what an inference thread can tell a hub that is not listening."""


class _LoadCancelledError(Exception):
    """Ends a loader from within: the thread was asked to end."""


class WorkerState(enum.Enum):
    """Life of an inference thread."""

    LOADING = "loading"
    READY = "ready"
    STOPPED = "stopped"
    FAILED = "failed"


class InferenceThread:
    """The native thread that owns one engine.

    Every public method may be called by any other thread; none of them touches the
    engine.

    Args:
        name: Shown by the operating system.
        load: Builds the engine; runs on the new thread.
        batch: The queue it drains.

    Attributes:
        state: Where it is in its life.
        failure: Why it has failed, for the log; None if it has not.
        public_failure: The same for anybody, but for the paths that it may hold.
        failed_to_load: Whether it has failed before it ever served.
        load_progress: Share of what takes long in loading that is done, if the loader tells.
        stats: The engine's figures after its last step; None while there is no engine.
        step_started_at_s: When the step began that is being computed; None between steps.
        notices: What it had to say, oldest first; whoever logs it takes it out.
    """

    def __init__(self, name: str, load: EngineLoader, batch: BatchScheduler) -> None:
        self.state = WorkerState.LOADING
        self.failure: str | None = None
        self.public_failure: str | None = None
        self.failed_to_load = False
        self.load_progress = 0.0
        self.stats: EngineStats | None = None
        self.step_started_at_s: float | None = None
        self.notices: deque[str] = deque(maxlen=MAX_NOTICES)
        self._load: EngineLoader | None = load
        self._batch = batch
        self._seated: dict[str, StreamFeed] = {}
        self._stopping = False
        self._watchers: dict[int, Parker] = {}
        self._thread = NativeThread(self._run, name)

    def start(self) -> None:
        """Start loading."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; unfinished streams end with NotReadyError. Does not wait."""
        self._stopping = True
        _end_all(self._batch.close(), _shutting_down)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread's end without the GIL.

        Args:
            timeout_s: Longest wait; None has no limit.

        Returns:
            Whether it has ended.
        """
        return self._thread.join(timeout_s)

    def wait_loaded(self, parker: Parker, timeout_s: float | None = None) -> bool:
        """Wait until the thread is no longer loading.

        Args:
            parker: The caller's own.
            timeout_s: Longest wait; None has no limit.

        Returns:
            False if the timeout passed first.
        """
        give_up_at_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._watchers[id(parker)] = parker
        try:
            while self.state is WorkerState.LOADING:
                remaining_s = None if give_up_at_s is None else give_up_at_s - time.monotonic()
                if remaining_s is not None and remaining_s <= 0:
                    return False
                parker.park(remaining_s)
            return True
        finally:
            self._watchers.pop(id(parker), None)

    async def wait_loaded_async(self) -> None:
        """As `wait_loaded`, without a limit, in a coroutine."""
        parker = AsyncioParker.of_running_loop()
        self._watchers[id(parker)] = parker
        try:
            while self.state is WorkerState.LOADING:
                await parker.wait()
        finally:
            self._watchers.pop(id(parker), None)

    # --- on the inference thread ----------------------------------------------

    def _run(self) -> None:
        engine = self._load_engine()
        if engine is None:
            return
        self.stats = engine.stats()
        self._enter(WorkerState.READY)
        try:
            self._serve(engine)
        except Exception as error:
            self._fail(error, "The engine stopped")
        else:
            _end_all(self._seated.values(), _shutting_down)
            self._enter(WorkerState.STOPPED)
        finally:
            self.stats = None
            self.step_started_at_s = None
            engine.close()

    def _load_engine(self) -> Engine | None:
        """The engine; None if there is none to serve, and then the state says why."""
        assert self._load is not None
        try:
            return self._load(self._watcher())
        except _LoadCancelledError:
            self._enter(WorkerState.STOPPED)
        except Exception as error:
            self.failed_to_load = True
            self._fail(error, "The model could not be loaded")
        finally:
            self._load = None  # it holds the opened files
        return None

    def _watcher(self) -> LoadWatcher:
        return LoadWatcher(
            notify=self.notices.append,
            on_progress=self._note_progress,
            before_piece=self._require_wanted,
        )

    def _note_progress(self, share: float) -> None:
        self.load_progress = share
        self._require_wanted()

    def _require_wanted(self) -> None:
        if self._stopping:
            raise _LoadCancelledError

    def _serve(self, engine: Engine) -> None:
        wait_s = None
        while not self._stopping:
            for feed in self._batch.take(engine.free_slots, wait_s):
                self._admit(engine, feed)
            if engine.num_sequences > 0 and not self._stopping:
                wait_s = self._patience_s(self._step(engine))

    def _patience_s(self, output: StepOutput) -> float | None:
        """How long nothing can change but by a kick: until the first deadline, or lapse."""
        if self._seated and not output.stalled:
            return 0.0
        deadlines = [feed.request.deadline_at_s for feed in self._seated.values()]
        instants = [at_s for at_s in (*deadlines, output.next_lapse_at_s) if at_s is not None]
        return max(0.0, min(instants) - time.monotonic()) if instants else None

    def _admit(self, engine: Engine, feed: StreamFeed) -> None:
        """Seat a request, or end it with the reason; nobody else pays for its mistake."""
        request_id = feed.request.request_id
        try:
            if request_id in self._seated:
                raise InvalidRequestError(f"A request with the id {request_id!r} is running.")
            engine.add(feed.request, feed.ring)
        except Exception as error:
            _end_all([feed], partial(self._as_serve_error, error))
        else:
            self._seated[request_id] = feed

    def _as_serve_error(self, error: Exception) -> ServeError:
        """The error itself if it speaks for itself; of any other, only the log says more."""
        if isinstance(error, ServeError):
            return error
        self.notices.append(f"a request failed: {type(error).__name__}: {error}")
        return EngineError("The model failed on this request.")

    def _step(self, engine: Engine) -> StepOutput:
        """Run one step and deliver it."""
        start_s = self.step_started_at_s = time.monotonic()
        output = engine.step(start_s)
        self.step_started_at_s = None
        self._note_prompts(output, start_s)
        touched = {request_id: self._seated[request_id] for request_id in output.updated}
        for finished in output.finished:
            touched[finished.request_id] = self._finish(finished)
        self.stats = engine.stats()
        _wake(touched.values())
        return output

    def _note_prompts(self, output: StepOutput, start_s: float) -> None:
        """Let the streams' readers know how far their prompts are."""
        for started in output.started:
            statistics = self._seated[started.request_id].statistics
            statistics.scheduled_at_s = start_s
            statistics.num_cached_tokens = started.num_cached_tokens
        for prompt in output.prefilling:
            statistics = self._seated[prompt.request_id].statistics
            statistics.num_prefilled_tokens = prompt.num_computed_tokens

    def _finish(self, finished: Finished) -> StreamFeed:
        feed = self._seated.pop(finished.request_id)
        feed.end(finished.reason, finished.error)
        if finished.error is not None and finished.error.__cause__ is not None:
            cause = finished.error.__cause__
            self.notices.append(f"a request failed: {type(cause).__name__}: {cause}")
        self._batch.note_finished()
        return feed

    def _fail(self, error: Exception, what: str) -> None:
        """End for good: refuse new requests and end every stream with the reason."""
        detail = error.message if isinstance(error, ServeError) else repr(error)
        self.public_failure = f"{what}: {public_reason(error)}"
        self.failure = f"{what}: {detail}"
        self.notices.append(self.failure)
        self._enter(WorkerState.FAILED)
        make_error = _failed_to_load if self.failed_to_load else _failed
        _end_all([*self._batch.close(), *self._seated.values()], make_error)

    def _enter(self, state: WorkerState) -> None:
        """Publish a state; those who wait for it look again."""
        self.state = state
        for parker in list(self._watchers.values()):  # atomic: no lock to wait for
            parker.waker.add(parker)
            parker.waker.flush()


def _end_all(feeds: Iterable[StreamFeed], make_error: Callable[[], ServeError]) -> None:
    """End streams, each with an error of its own: raising one adds to its traceback."""
    feeds = list(feeds)
    for feed in feeds:
        feed.end(FinishReason.ERROR, make_error())
    _wake(feeds)


def _wake(feeds: Iterable[StreamFeed]) -> None:
    """Wake the streams' consumers, with one wake-up a waker."""
    wakers = set()
    for feed in feeds:  # of each step's tokens, so no call is made that can be spared
        parker = feed.parker  # once: the consumer may put another one there at any time
        wakers.add(parker.waker)
        if not parker.is_left_to_work:
            parker.waker.add(parker)
    for waker in wakers:
        waker.flush()


def _failed() -> EngineError:
    return EngineError("The model has failed; the server's log says why.")


def _failed_to_load() -> NotReadyError:
    return NotReadyError("The model has failed to load. The server's log says why.")


def _shutting_down() -> NotReadyError:
    return NotReadyError("The server is shutting down. Retry on another one.")
