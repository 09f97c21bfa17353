"""An engine without a network: its steps only tell the time.

It stands where a language model's engine stands, behind the queue and the inference thread of an
InferenceServer, so that what is measured is everything of the server but the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from realtime_serve._token_ring import FLAG_LAST, OPEN, TokenRing
from realtime_serve.engine.interface import EngineStats, Finished, Started, StepOutput
from realtime_serve.types import FinishReason, InferenceRequest
from streaming.token_clock import Pace, tick_now

ENDLESS = 2**62
"""Tokens that are wanted where there is no bound."""


@dataclass(slots=True)
class _Seat:
    """A request, and how many of its tokens are still wanted."""

    request: InferenceRequest
    ring: TokenRing
    num_left: int


class ClockEngine:
    """Gives every seated request a token a step; see engine.interface.Engine for the methods.

    A stream whose ring is full misses steps.

    Args:
        num_seats: Most requests at once.
        step_s: Length of a step; 0 for a model that takes no time.
        first_token_id: Id of tick 0; the other ticks follow it.
        max_model_len: What it says of its context.
        sleep: Waits natively: it is called on the inference thread.
    """

    def __init__(
        self,
        *,
        num_seats: int,
        step_s: float,
        first_token_id: int,
        max_model_len: int,
        sleep: Callable[[float], None],
    ) -> None:
        self._num_seats = num_seats
        self._pace = Pace(step_s)
        self._first_token_id = first_token_id
        self._max_model_len = max_model_len
        self._sleep = sleep
        self._seats: dict[str, _Seat] = {}
        self._unstarted: list[Started] = []
        self._num_prompt_tokens = 0
        self._num_generated = 0
        self._num_steps = 0

    @property
    def free_slots(self) -> int:
        """Seats left."""
        return self._num_seats - len(self._seats)

    @property
    def num_sequences(self) -> int:
        """Seats taken."""
        return len(self._seats)

    def add(self, request: InferenceRequest, ring: TokenRing) -> None:
        """Seat a request."""
        if not self._seats:
            self._pace.begin()
        self._seats[request.request_id] = _Seat(request, ring, _num_wanted(request))
        self._unstarted.append(Started(request.request_id, 0))
        self._num_prompt_tokens += len(request.prompt_token_ids)

    def step(self, now_s: float) -> StepOutput:
        """Wait for the end of the step, and say then what time it is."""
        wait_s = self._pace.wait_s()
        if wait_s > 0:
            self._sleep(wait_s)
        started, self._unstarted = self._unstarted, []
        updated = self._push(self._first_token_id + tick_now())
        finished = tuple(self._leave())
        self._num_steps += 1
        return StepOutput(
            started=tuple(started),
            updated=tuple(updated),
            finished=finished,
            num_scheduled_tokens=len(updated),
            stalled=not updated and not finished and self._are_stalled(),
        )

    def _push(self, token_id: int) -> list[str]:
        """Give the token to every request whose ring has room; which ones these are."""
        updated = []
        for request_id, seat in self._seats.items():
            flags = FLAG_LAST if seat.num_left == 1 else 0
            if seat.ring.push(token_id, 0, 0.0, flags):
                seat.num_left -= 1
                updated.append(request_id)
        self._num_generated += len(updated)
        return updated

    def _leave(self) -> list[Finished]:
        """Free the seats of those that have all they wanted, or are no longer wanted."""
        finished = []
        for request_id, seat in list(self._seats.items()):
            if seat.num_left == 0:
                finished.append(_finished(seat, FinishReason.LENGTH))
                del self._seats[request_id]
            elif seat.ring.cancel_state != OPEN:
                finished.append(_finished(seat, FinishReason.CANCELLED))
                del self._seats[request_id]
        return finished

    def _are_stalled(self) -> bool:
        """Whether no stream will have room before a reader says so."""
        return all(seat.ring.mark_stalled() for seat in self._seats.values())

    def stats(self) -> EngineStats:
        """The figures of this instant; there is no KV cache."""
        return EngineStats(
            max_model_len=self._max_model_len,
            num_waiting=0,
            num_running=len(self._seats),
            num_paused=0,
            num_preempted=0,
            kv_blocks_used=0,
            kv_blocks_total=0,
            kv_cache_bytes=0,
            kv_cache_tokens=0,
            preemptions_total=0,
            prefix_cache_queries_total=0,
            prefix_cache_hits_total=0,
            prompt_tokens_total=self._num_prompt_tokens,
            generation_tokens_total=self._num_generated,
            num_draft_tokens_total=0,
            num_accepted_tokens_total=0,
            steps_total=self._num_steps,
        )

    def close(self) -> None:
        """Nothing is held."""


def _num_wanted(request: InferenceRequest) -> int:
    max_tokens = request.sampling.max_tokens
    return ENDLESS if max_tokens is None else max_tokens


def _finished(seat: _Seat, reason: FinishReason) -> Finished:
    return Finished(
        request_id=seat.request.request_id,
        reason=reason,
        num_prompt_tokens=len(seat.request.prompt_token_ids),
        num_generated_tokens=_num_wanted(seat.request) - seat.num_left,
    )
