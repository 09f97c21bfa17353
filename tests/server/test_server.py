"""InferenceServer from Python: models in, streams out, threads that end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from realtime_serve import (
    FinishReason,
    InferenceServer,
    ModelConfig,
    ModelState,
    RequestPriority,
    SamplingParams,
    ServerConfig,
)
from realtime_serve.errors import (
    ConfigError,
    ContextLengthExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotFoundError,
    NotReadyError,
    OverloadedError,
    RequestCancelledError,
)
from realtime_serve.native import Lock
from serve_model import Alphabet
from support.scripted_servers import (
    GREEDY,
    ONE_SEAT,
    ONE_TOKEN,
    TEXT,
    EndlessAlphabet,
    Gate,
    GatedAlphabet,
    serve,
    text_of,
    wait_until,
)

# --- generating ---------------------------------------------------------------


def test_tokens_are_iterated_in_order(server: InferenceServer) -> None:
    stream = server.generate("uv", sampling=GREEDY)
    assert text_of(stream) == "wxyz"
    assert stream.finish_reason is FinishReason.STOP
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (2, 5)


def test_a_whole_answer_joins_the_same_tokens(server: InferenceServer) -> None:
    answer = server.complete("uv", sampling=SamplingParams(temperature=0, max_tokens=3))
    assert answer.text == "wxy"
    assert answer.finish_reason is FinishReason.LENGTH
    assert len(answer.token_ids) == answer.usage.completion_tokens == 3


def test_many_streams_at_once_do_not_mix(server: InferenceServer) -> None:
    letters = "abcdefghijklmnopqrstuvwxy"
    streams = [server.generate(letter, sampling=GREEDY) for letter in letters]
    for letter, stream in zip(letters, streams, strict=True):
        assert text_of(stream) == "abcdefghijklmnopqrstuvwxyz".split(letter)[1]


def test_streams_read_by_several_threads_do_not_mix(server: InferenceServer) -> None:
    seen: dict[str, str] = {}

    def read(letter: str) -> None:
        seen[letter] = text_of(server.generate(letter, sampling=GREEDY))

    threads = [threading.Thread(target=read, args=(letter,)) for letter in "aeimquy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {letter: text[0] for letter, text in seen.items()} == dict(
        zip("aeimquy", "bfjnrvz", strict=True)
    )


def test_breaking_out_of_the_loop_frees_the_seat(endless: InferenceServer) -> None:
    for token in endless.generate("a", sampling=GREEDY):
        if token.text == "m":
            break
    wait_until(lambda: endless.health().running == 0)


def test_closing_a_stream_frees_the_seat(endless: InferenceServer) -> None:
    with endless.generate("a", sampling=GREEDY) as stream:
        stream.read()
    assert stream.finish_reason is FinishReason.CANCELLED
    wait_until(lambda: endless.health().running == 0)


def test_a_stop_string_frees_the_seat(endless: InferenceServer) -> None:
    stream = endless.generate("a", sampling=SamplingParams(temperature=0, stop=("hij",)))
    assert text_of(stream) == "bcdefg"
    wait_until(lambda: endless.health().running == 0)


def test_a_deadline_ends_a_running_stream(endless: InferenceServer) -> None:
    with pytest.raises(DeadlineExceededError):
        text_of(endless.generate("a", sampling=GREEDY, timeout_s=0.05))
    wait_until(lambda: endless.health().running == 0)


def test_a_reader_that_pauses_loses_nothing_and_holds_up_nobody() -> None:
    with serve(EndlessAlphabet, ServerConfig(ring_capacity=4)) as server:
        slow = server.generate("a", sampling=SamplingParams(temperature=0, max_tokens=52))
        quick = server.generate("a", sampling=SamplingParams(temperature=0, max_tokens=500))
        assert len(text_of(quick)) == 500
        assert text_of(slow) == "bcdefghijklmnopqrstuvwxyza" * 2


def test_the_configured_model_is_loaded_at_the_first_use(gguf_path: str) -> None:
    config = ServerConfig(model=gguf_path, served_model_name="mine", max_model_len=64)
    with InferenceServer(config) as server:
        assert server.health().models == {}
        answer = server.complete("The capital of France is", sampling=ONE_TOKEN)
        assert (answer.model, answer.text) == ("mine", " Paris")


# --- refusals -----------------------------------------------------------------


def test_an_unknown_model_is_refused(server: InferenceServer) -> None:
    with pytest.raises(ModelNotFoundError, match="alphabet"):
        server.generate("a", model="other")


def test_a_prompt_that_cannot_fit_is_refused_with_both_numbers(server: InferenceServer) -> None:
    with pytest.raises(ContextLengthExceededError, match=r"64.*64"):
        server.generate("a" * 64)
    assert text_of(server.generate("y" * 63, sampling=GREEDY)) == "z"


def test_chat_without_a_template_is_refused(server: InferenceServer) -> None:
    with pytest.raises(InvalidRequestError, match="chat template"):
        server.generate([{"role": "user", "content": "a"}])


def test_a_second_model_of_the_same_name_is_refused(server: InferenceServer) -> None:
    with pytest.raises(InvalidRequestError, match="alphabet"):
        server.register_model(
            ModelConfig(name="alphabet"), network=lambda: Alphabet(TEXT), text=TEXT
        )


def test_a_network_without_text_is_refused() -> None:
    with InferenceServer() as server, pytest.raises(ConfigError):
        server.register_model(ModelConfig(name="x"), network=lambda: Alphabet(TEXT))


def test_a_full_queue_refuses_and_the_waiting_ones_are_served() -> None:
    gate = Gate()
    with serve(lambda: GatedAlphabet(gate), ONE_SEAT) as server:
        with gate:
            streams = [server.generate("a", sampling=ONE_TOKEN)]
            wait_until(lambda: server.health().waiting == 0)
            streams += [server.generate(letter, sampling=ONE_TOKEN) for letter in "bcd"]
            with pytest.raises(OverloadedError) as caught:
                server.generate("e", sampling=ONE_TOKEN)
            assert caught.value.retry_after_s is not None
        assert [text_of(stream) for stream in streams] == ["b", "c", "d", "e"]


def test_a_late_high_request_overtakes_everything_that_waits() -> None:
    gate = Gate()
    with serve(lambda: GatedAlphabet(gate), ONE_SEAT) as server:
        with gate:
            streams = [server.generate("a", sampling=ONE_TOKEN)]
            wait_until(lambda: len(gate.steps) == 1)
            for letter, priority in [("l", "LOW"), ("n", "NORMAL"), ("h", "HIGH")]:
                streams.append(
                    server.generate(letter, sampling=ONE_TOKEN, priority=RequestPriority[priority])
                )
        for stream in streams:
            text_of(stream)
    assert [step for (step,) in gate.steps] == TEXT.tokenizer.encode("ahnl")


def test_a_cancelled_request_that_waits_is_never_computed() -> None:
    gate = Gate()
    with serve(lambda: GatedAlphabet(gate), ONE_SEAT) as server:
        with gate:
            first = server.generate("a", sampling=ONE_TOKEN)
            wait_until(lambda: len(gate.steps) == 1)
            server.generate("b", sampling=ONE_TOKEN).close()
            with pytest.raises(DeadlineExceededError):
                text_of(server.generate("c", sampling=ONE_TOKEN, timeout_s=0.01))
            assert server.health().waiting == 0
        assert text_of(first) == "b"
        assert text_of(server.generate("d", sampling=ONE_TOKEN)) == "e"
    assert [step for (step,) in gate.steps] == TEXT.tokenizer.encode("ad")


# --- life ---------------------------------------------------------------------


def test_health_counts_what_runs_and_what_waits() -> None:
    gate = Gate()
    with serve(lambda: GatedAlphabet(gate), ONE_SEAT) as server:
        assert server.health().ready
        with gate:
            streams = [server.generate("a", sampling=ONE_TOKEN) for _ in range(3)]
            wait_until(lambda: server.health().waiting == 2)
            assert server.health().open_streams == 3
        for stream in streams:
            text_of(stream)
        wait_until(lambda: server.health().running == 0)
        assert server.health().open_streams == 0


def test_requests_that_come_while_the_model_loads_wait_for_it() -> None:
    gate = Lock()

    def build() -> Alphabet:
        with gate:
            return Alphabet(TEXT)

    with InferenceServer(ServerConfig(max_queue_depth=2)) as server:
        with gate:
            config = ModelConfig(name="alphabet")
            server.register_model(config, network=build, text=TEXT, wait=False)
            streams = [server.generate(prompt, sampling=GREEDY) for prompt in ("w", "a" * 64)]
            with pytest.raises(OverloadedError):
                server.generate("a")
            assert server.health().models == {"alphabet": ModelState.LOADING}
        assert text_of(streams[0]) == "xyz"
        with pytest.raises(ContextLengthExceededError):  # known only once it is loaded
            text_of(streams[1])


def test_a_request_that_waits_for_the_model_gives_up_at_its_deadline() -> None:
    gate = Lock()

    def build() -> Alphabet:
        with gate:
            return Alphabet(TEXT)

    with InferenceServer() as server, gate:
        config = ModelConfig(name="alphabet")
        server.register_model(config, network=build, text=TEXT, wait=False)
        with pytest.raises(DeadlineExceededError):
            text_of(server.generate("a", timeout_s=0.01))
        assert server.health().waiting == 0


def test_shutdown_ends_open_streams_with_the_reason() -> None:
    server = serve(EndlessAlphabet)
    stream = server.generate("a", sampling=GREEDY)
    stream.read()
    server.shutdown()
    server.shutdown()
    with pytest.raises((NotReadyError, RequestCancelledError)):
        text_of(stream)
    with pytest.raises(NotReadyError):
        server.generate("a")


SCRIPTS = {
    "ends while generating": """
stream = server.generate("a")
stream.read()
""",
    "raises while generating": """
stream = server.generate("a")
stream.read()
raise SystemExit(7)
""",
    "never shut down": """
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_program_that_forgets_to_shut_down_exits_cleanly(name: str) -> None:
    """The thread is joined before the interpreter goes, in the middle of steps too."""
    code = "from support.scripted_servers import EndlessAlphabet, serve\n"
    code += "server = serve(EndlessAlphabet)\n" + SCRIPTS[name]
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent / "examples")])
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == (7 if "raise" in SCRIPTS[name] else 0), result.stderr
    assert result.stderr == ""
