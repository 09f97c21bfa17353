"""An engine without a network: every request hears its own prompt, over and over.

So each byte of an answer says whose it is. It keeps all the rules of a real engine: it leaves
a full ring alone, drops who is cancelled, late or not read, and says in a step's output who has
ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from realtime_serve import InferenceServer, ServerConfig
from realtime_serve import _token_ring as ring_states
from realtime_serve._token_ring import FLAG_LAST, TokenRing
from realtime_serve.engine.interface import (
    Engine,
    EngineStats,
    Finished,
    PromptProgress,
    Started,
    StepOutput,
)
from realtime_serve.engine.load_watcher import LoadWatcher
from realtime_serve.engine.reader_leases import ReaderLeases
from realtime_serve.errors import ServeError, StalledReaderError
from realtime_serve.model import Model
from realtime_serve.native import original
from realtime_serve.text import TextModel, Tokenizer
from realtime_serve.types import FinishReason, InferenceRequest, ModelConfig

MODEL = "echo"
MAX_SEQS = 4096
MAX_MODEL_LEN = 1 << 20

_NO_STATS = EngineStats(**dict.fromkeys(EngineStats.__dataclass_fields__, 0))

sleep = original("time", "sleep")


@dataclass(eq=False)
class _Seat:
    request: InferenceRequest
    ring: TokenRing
    num_generated: int = 0
    num_prefilled: int = 0

    @property
    def max_tokens(self) -> int:
        return self.request.sampling.max_tokens or MAX_MODEL_LEN

    def prefill(self, num_tokens: int) -> bool:
        """Compute so much of the prompt; whether there is more of it."""
        num_prompt_tokens = len(self.request.prompt_token_ids)
        self.num_prefilled = min(self.num_prefilled + num_tokens, num_prompt_tokens)
        return self.num_prefilled < num_prompt_tokens

    def next_token(self) -> int:
        prompt = self.request.prompt_token_ids
        return prompt[self.num_generated % len(prompt)]


class EchoEngine:
    """An Engine; see the interface.

    Args:
        step_s: How long a step takes; 0 is as fast as it goes.
        tokens_a_step: Tokens that each request gets in a step.
        prompt_tokens_a_step: Tokens of each prompt that are computed in a step.
        max_seqs: Seats.
        reader_lease_s: See ReaderLeases.
    """

    def __init__(
        self,
        step_s: float = 0.0,
        tokens_a_step: int = 1,
        *,
        prompt_tokens_a_step: int = MAX_MODEL_LEN,
        max_seqs: int = MAX_SEQS,
        reader_lease_s: float | None = None,
    ) -> None:
        self._step_s = step_s
        self._tokens_a_step = tokens_a_step
        self._prompt_tokens_a_step = prompt_tokens_a_step
        self._max_seqs = max_seqs
        self._seats: dict[str, _Seat] = {}
        self._unstarted: list[str] = []
        self._next_step_at_s = 0.0
        self._num_generated = 0
        self._leases: ReaderLeases[_Seat] = ReaderLeases(reader_lease_s)

    @property
    def free_slots(self) -> int:
        return self._max_seqs - len(self._seats)

    @property
    def num_sequences(self) -> int:
        return len(self._seats)

    def add(self, request: InferenceRequest, ring: TokenRing) -> None:
        self._seats[request.request_id] = _Seat(request, ring)
        self._unstarted.append(request.request_id)

    def step(self, now_s: float) -> StepOutput:
        self._pace()
        started, self._unstarted = self._unstarted, []
        finished = [end for seat in self._seats.values() if (end := _asked_end(seat, now_s))]
        gone = {end.request_id for end in finished}
        seats = {each: seat for each, seat in self._seats.items() if each not in gone}
        prefilling = [
            PromptProgress(request_id, seat.num_prefilled)
            for request_id, seat in seats.items()
            if seat.prefill(self._prompt_tokens_a_step)
        ]
        for progress in prefilling:
            del seats[progress.request_id]
        updated = [request_id for request_id, seat in seats.items() if self._advance(seat)]
        finished += [
            _finished(seat, FinishReason.LENGTH)
            for seat in self._seats.values()
            if seat.num_generated >= seat.max_tokens
        ]
        full = [seat for seat in seats.values() if seat.ring.free_space() == 0]
        finished += [
            _finished(seat, FinishReason.CANCELLED, StalledReaderError())
            for seat in self._leases.lapsed(full, now_s)
            if seat.num_generated < seat.max_tokens
        ]
        for end in finished:
            self._seats.pop(end.request_id, None)
        return StepOutput(
            started=tuple(Started(request_id, 0) for request_id in started),
            prefilling=tuple(prefilling),
            updated=tuple(updated),
            finished=tuple(finished),
            num_scheduled_tokens=len(updated),
            stalled=bool(self._seats) and not updated and not finished and not prefilling,
            next_lapse_at_s=self._leases.next_end_at_s,
        )

    def stats(self) -> EngineStats:
        return replace(
            _NO_STATS,
            max_model_len=MAX_MODEL_LEN,
            num_running=len(self._seats),
            generation_tokens_total=self._num_generated,
        )

    def close(self) -> None:
        self._seats.clear()

    def _pace(self) -> None:
        if self._step_s:
            now_s = time.monotonic()
            self._next_step_at_s = max(self._next_step_at_s + self._step_s, now_s)
            sleep(self._next_step_at_s - now_s)

    def _advance(self, seat: _Seat) -> bool:
        num_left = seat.max_tokens - seat.num_generated
        num_tokens = min(self._tokens_a_step, num_left, seat.ring.free_space())
        if num_tokens == 0:
            seat.ring.mark_stalled()
            return False
        for _ in range(num_tokens):
            is_last = seat.num_generated + 1 == seat.max_tokens
            assert seat.ring.push(seat.next_token(), flags=FLAG_LAST if is_last else 0)
            seat.num_generated += 1
        self._num_generated += num_tokens
        return True


def _asked_end(seat: _Seat, now_s: float) -> Finished | None:
    deadline_at_s = seat.request.deadline_at_s
    if seat.ring.cancel_state != ring_states.OPEN:
        return _finished(seat, FinishReason.CANCELLED)
    if deadline_at_s is not None and now_s >= deadline_at_s:
        return _finished(seat, FinishReason.DEADLINE)
    return None


def _finished(seat: _Seat, reason: FinishReason, error: ServeError | None = None) -> Finished:
    return Finished(
        request_id=seat.request.request_id,
        reason=reason,
        num_prompt_tokens=len(seat.request.prompt_token_ids),
        num_generated_tokens=seat.num_generated,
        error=error,
    )


def byte_tokenizer() -> Tokenizer:
    """A tokenizer with a token for each byte and no other."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


def echo_server(
    engine: EchoEngine,
    config: ServerConfig | None = None,
    *,
    may_load: Callable[[], bool] = lambda: True,
) -> InferenceServer:
    """A server of one model, "echo", that the engine runs.

    It is ready once it has loaded, which it does once it may.
    """

    def load(watcher: LoadWatcher) -> Engine:
        while not may_load():
            watcher.before_piece()
            sleep(0.01)
        return engine

    server = InferenceServer(config)
    text = TextModel(
        tokenizer=byte_tokenizer(),
        chat_template=None,
        eos_token_ids=frozenset(),
        bos_token_id=None,
        add_bos=False,
    )
    model = Model(
        MODEL,
        config=ModelConfig(name=MODEL),
        batch_config=server.config.batch_config(),
        text=text,
        load=load,
    )
    server._start(model)
    return server
