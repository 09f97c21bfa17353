from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import load_test
from support.scripted_http import Reply, ScriptedServer, chat_stream, event
from workload import Plan


def run(server: ScriptedServer, *arguments: str) -> int:
    return load_test.main(["--base-url", server.base_url, *arguments])


def results(server: ScriptedServer, path: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the command and read back what it wrote."""
    run(server, *arguments, "--json", str(path))
    written = json.loads(path.read_text())["results"]
    assert isinstance(written, list)
    return written


def measured_requests(server: ScriptedServer, output_len: int) -> list[dict[str, Any]]:
    """The requests that count: calibration and warm-up ask for other lengths."""
    return [body for body in server.requests if body["max_tokens"] == output_len]


def test_every_request_and_every_token_is_counted(
    scripted_server: ScriptedServer, tmp_path: Path
) -> None:
    arguments = ("--concurrency", "3", "--num-prompts", "7", "--output-len", "5")
    (result,) = results(scripted_server, tmp_path / "out.json", *arguments)
    assert (result["successful"], result["failed"]) == (7, 0)
    assert result["output_tokens"] == 35
    assert result["input_tokens"] == 70
    assert len(measured_requests(scripted_server, 5)) == 7


def test_connections_are_reused(scripted_server: ScriptedServer) -> None:
    assert run(scripted_server, "--concurrency", "2", "--num-prompts", "20") == 0
    assert scripted_server.num_connections == 2


def test_a_server_that_hangs_up_after_each_answer_is_asked_again(
    scripted_server: ScriptedServer, tmp_path: Path
) -> None:
    scripted_server.script = lambda body: Reply(
        chat_stream(["a"] * body["max_tokens"]), hangs_up=True
    )
    arguments = ("--concurrency", "2", "--num-prompts", "20", "--output-len", "3")
    (result,) = results(scripted_server, tmp_path / "out.json", *arguments)
    assert (result["successful"], result["failed"]) == (20, 0)
    assert scripted_server.num_connections > 20


def test_prompts_can_share_their_beginning(scripted_server: ScriptedServer) -> None:
    def a_word_a_token(body: dict[str, Any]) -> Reply:
        num_words = len(body["messages"][0]["content"].split())
        return Reply(chat_stream(["a"] * body["max_tokens"], prompt_tokens=num_words))

    scripted_server.script = a_word_a_token
    arguments = ("--concurrency", "1", "--num-prompts", "5", "--input-len", "20")
    assert run(scripted_server, *arguments, "--shared-prefix-len", "15") == 0
    bodies = measured_requests(scripted_server, 128)
    words = [body["messages"][0]["content"].split() for body in bodies]
    assert [len(each) for each in words] == [20] * 5
    assert len({tuple(each[:15]) for each in words}) == 1
    assert len({tuple(each[15:]) for each in words}) == 5


def test_a_prompt_that_would_be_shared_whole_is_refused(
    scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scripted_server, "--input-len", "20", "--shared-prefix-len", "20") == 2
    assert "must leave a token" in capsys.readouterr().err
    assert scripted_server.requests == []


def test_requests_ask_for_exactly_the_output_length(scripted_server: ScriptedServer) -> None:
    run(scripted_server, "--concurrency", "1", "--num-prompts", "1", "--output-len", "6")
    (body,) = measured_requests(scripted_server, 6)
    assert body["model"] == "scripted"
    assert (body["ignore_eos"], body["stream"]) == (True, True)
    assert body["stream_options"] == {"include_usage": True}


def test_prompts_are_calibrated_to_the_tokens_that_the_server_counts(
    scripted_server: ScriptedServer, tmp_path: Path
) -> None:
    def template_of_nine(body: dict[str, Any]) -> Reply:
        num_words = len(body["messages"][0]["content"].split())
        return Reply(chat_stream(["a"] * body["max_tokens"], prompt_tokens=num_words + 9))

    scripted_server.script = template_of_nine
    arguments = ("--concurrency", "1", "--num-prompts", "4", "--input-len", "50")
    (result,) = results(scripted_server, tmp_path / "out.json", *arguments)
    assert result["input_tokens"] == 4 * 50


def test_prompts_differ_but_a_seed_repeats_them(scripted_server: ScriptedServer) -> None:
    for _ in range(2):
        run(scripted_server, "--concurrency", "1", "--num-prompts", "3", "--seed", "5")
    prompts = [body["messages"][0]["content"] for body in measured_requests(scripted_server, 128)]
    assert len(prompts) == 6
    assert len(set(prompts[:3])) == 3
    assert prompts[:3] == prompts[3:]


def test_completions_are_asked_with_a_prompt(scripted_server: ScriptedServer) -> None:
    def completion(body: dict[str, Any]) -> Reply:
        return Reply([event({"choices": [{"text": body["prompt"][:1]}]}), event("[DONE]")])

    scripted_server.script = completion
    arguments = ("--endpoint", "completions", "--concurrency", "1", "--num-prompts", "2")
    assert run(scripted_server, *arguments) == 0


FAILURES = {
    "HTTP 503: the queue is full": Reply(
        [b'{"error": {"message": "the queue is full"}}'], 503, "application/json"
    ),
    "error event: the model failed": Reply(
        [
            *chat_stream(["a"])[:2],
            event({"error": {"message": "the model failed"}}),
            event("[DONE]"),
        ]
    ),
    "the stream ended without [DONE]": Reply(chat_stream(["a", "b"])[:-1]),
    "the stream carried no text": Reply(chat_stream([])),
    "the connection closed in the middle of the answer": Reply(
        chat_stream(["a"])[:2], cut_off=True
    ),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failure_is_counted_and_shown_with_its_reason(
    reason: str, scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def every_second_fails(body: dict[str, Any]) -> Reply:
        num_measured = len(measured_requests(scripted_server, 3))
        if body["max_tokens"] == 3 and num_measured % 2 == 0:
            return FAILURES[reason]
        return Reply(chat_stream(["a"] * body["max_tokens"]))

    scripted_server.script = every_second_fails
    arguments = ("--concurrency", "1", "--num-prompts", "6", "--output-len", "3")
    assert run(scripted_server, *arguments) == 1
    report = capsys.readouterr().out
    assert "Successful requests:                     3\n" in report
    assert "Failed requests:                         3\n" in report
    assert f"Failed, 3 times: {reason}" in report


def test_a_request_that_never_ends_fails_at_its_timeout(
    scripted_server: ScriptedServer, tmp_path: Path
) -> None:
    def stuck_once(body: dict[str, Any]) -> Reply:
        if len(measured_requests(scripted_server, 3)) == 1 and body["max_tokens"] == 3:
            return Reply(chat_stream(["a"])[:2], silent=True)
        return Reply(chat_stream(["a"] * body["max_tokens"]))

    scripted_server.script = stuck_once
    arguments = ("--concurrency", "1", "--num-prompts", "2", "--output-len", "3", "--timeout", "1")
    (result,) = results(scripted_server, tmp_path / "out.json", *arguments)
    assert result["successful"] == 1
    assert result["failures"] == {"not over after 1 s": 1}


def test_several_levels_end_with_a_table(
    scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scripted_server, "--concurrency", "1,2", "--num-prompts", "4") == 0
    header, first, second = capsys.readouterr().out.splitlines()[-3:]
    assert header.split()[0] == "concurrency"
    assert [first.split()[0], second.split()[0]] == ["1", "2"]
    assert first.split()[2] == "1.00x"


def test_progress_is_shown_beside_the_report(
    scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(scripted_server, "--concurrency", "1", "--num-prompts", "2", "--output-len", "3")
    captured = capsys.readouterr()
    assert "concurrency 1: 2/2 requests, 0 failed, 6 tokens" in captured.err
    assert "requests, 0 failed" not in captured.out


def test_no_server_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_test.main(["--port", "1", "--num-prompts", "1"]) == 2
    assert "Nothing answers at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_refused_probe_is_told_in_a_sentence(
    scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted_server.script = lambda body: Reply([b'{"error": {"message": "no"}}'], 404)
    assert run(scripted_server, "--model", "other") == 2
    assert "HTTP 404: no" in capsys.readouterr().err


def test_a_server_without_a_model_is_told_in_a_sentence(
    scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted_server.models = []
    assert run(scripted_server) == 2
    assert "the server lists no model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--concurrency", "0"], ["--num-prompts", "1", "--duration", "1"], ["--request-rate", "-1"]],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        load_test.main(arguments)
    assert exit_info.value.code == 2


def test_arrivals_have_the_rate_that_was_asked_for() -> None:
    plan = Plan(num_prompts=4000, duration_s=None, request_rate=10.0)
    times = list(plan.due_times(100.0, plan.num_requests(1), random.Random(1)))
    assert len(times) == 4000
    assert times == sorted(times)
    assert (times[-1] - 100.0) / 4000 == pytest.approx(0.1, rel=0.05)


def test_arrivals_end_with_the_duration() -> None:
    plan = Plan(num_prompts=None, duration_s=50.0, request_rate=10.0)
    times = list(plan.due_times(100.0, plan.num_requests(1), random.Random(1)))
    assert times
    assert all(100.0 < time_s < 150.0 for time_s in times)
    assert len(times) == pytest.approx(500, rel=0.2)
