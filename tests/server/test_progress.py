"""A stream knows what it waits for until its first token."""

from __future__ import annotations

from realtime_serve import InferenceServer, ModelConfig, RequestPriority
from realtime_serve.native import Lock
from realtime_serve.types import Loading, Prefilling, Queued
from serve_model import Alphabet
from support.scripted_servers import (
    GREEDY,
    ONE_SEAT,
    TEXT,
    GatedAlphabet,
    StepByStep,
    serve,
    text_of,
    wait_until,
)

LONG = "abcdefghij" * 4
"""A prompt of 40 tokens, which takes three steps of ONE_SEAT's 16."""


def test_a_prompt_goes_on_step_by_step() -> None:
    steps = StepByStep()
    with serve(lambda: GatedAlphabet(steps), ONE_SEAT) as server, steps:
        stream = server.generate(LONG, sampling=GREEDY)
        wait_until(
            lambda: stream.progress == Prefilling(num_computed_tokens=0, num_prompt_tokens=40)
        )
        for num_allowed, num_computed in ((1, 16), (2, 32)):
            steps.num_allowed = num_allowed
            reached = Prefilling(num_computed_tokens=num_computed, num_prompt_tokens=40)
            wait_until(lambda reached=reached: stream.progress == reached)  # type: ignore[misc]
        steps.num_allowed = 3
        stream.read()
        assert stream.progress is None


def test_a_place_in_the_queue_is_counted_from_one_and_over_all_classes() -> None:
    steps = StepByStep()
    with serve(lambda: GatedAlphabet(steps), ONE_SEAT) as server, steps:
        seated = server.generate("a")
        wait_until(lambda: isinstance(seated.progress, Prefilling))
        low = server.generate("b", priority=RequestPriority.LOW)
        normal = server.generate("c")
        assert (normal.progress, low.progress) == (Queued(position=1), Queued(position=2))
        normal.close()
        assert (normal.progress, low.progress) == (None, Queued(position=1))
        seated.close()
        steps.num_allowed = 1
        wait_until(lambda: isinstance(low.progress, Prefilling))


def test_while_the_model_loads_that_is_what_everybody_waits_for() -> None:
    loading = Lock()

    def load() -> Alphabet:
        with loading:
            return Alphabet(TEXT)

    with InferenceServer() as server:
        with loading:
            server.register_model(ModelConfig(name="alphabet"), network=load, text=TEXT, wait=False)
            streams = [server.generate("w", sampling=GREEDY) for _ in range(2)]
            assert [stream.progress for stream in streams] == [Loading(), Loading()]
        assert [text_of(stream) for stream in streams] == ["xyz", "xyz"]
        assert [stream.progress for stream in streams] == [None, None]
