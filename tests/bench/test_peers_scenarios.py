from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from peers.load import ScenarioFailedError, load_of
from peers.metrics import METRICS
from peers.scenarios import FULL, QUICK, SCENARIOS, Values
from support.scripted_http import Reply, ScriptedServer, event


def completion(body: dict[str, Any], *, num_tokens: int | None = None) -> list[bytes]:
    """What /v1/completions answers with when each word is a token."""
    num_tokens = body["max_tokens"] if num_tokens is None else num_tokens
    usage = {"prompt_tokens": len(body["prompt"].split()), "completion_tokens": num_tokens}
    return [
        *(event({"choices": [{"text": "a"}]}) for _ in range(num_tokens)),
        event({"choices": [], "usage": usage}),
        event("[DONE]"),
    ]


@pytest.fixture
def completions_server(scripted_server: ScriptedServer) -> ScriptedServer:
    scripted_server.script = lambda body: Reply(completion(body))
    return scripted_server


def run(name: str, server: ScriptedServer, *, seed: int = 1) -> Values:
    async def scenario() -> Values:
        async with load_of(server.base_url, seed=seed) as load:
            return await SCENARIOS[name](load, QUICK)

    return asyncio.run(scenario())


def prompts(server: ScriptedServer, output_tokens: int) -> list[str]:
    """The prompts of answers of that length, in the order of their arrival."""
    return [body["prompt"] for body in server.requests if body["max_tokens"] == output_tokens]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_gives_figures_that_the_table_knows(
    name: str, completions_server: ScriptedServer
) -> None:
    values = run(name, completions_server)
    assert values
    assert set(values) <= set(METRICS)
    assert all(value >= 0 for value in values.values())


def test_a_full_run_fills_every_level_of_the_table() -> None:
    levels = {f"decode_{streams}" for streams in FULL.short_requests}
    levels |= {f"long_{streams}" for streams in FULL.long_requests}
    assert levels == {key for key in METRICS if key.startswith(("decode", "long"))}


def test_prompts_have_the_length_that_the_scenario_says(completions_server: ScriptedServer) -> None:
    run("decode", completions_server)
    measured = prompts(completions_server, QUICK.output_tokens)
    assert len(measured) == sum(QUICK.short_requests.values())
    assert {len(prompt.split()) for prompt in measured} == {32}


def test_no_prompt_comes_twice_in_a_repeat_or_in_the_next(
    completions_server: ScriptedServer,
) -> None:
    for seed in (1, 2):
        run("decode", completions_server, seed=seed)
    sent = [body["prompt"] for body in completions_server.requests]
    assert len(sent) > 10
    assert len(set(sent)) == len(sent)


def test_every_candidate_gets_the_same_prompts(completions_server: ScriptedServer) -> None:
    run("ttft", completions_server)
    first = [body["prompt"] for body in completions_server.requests]
    completions_server.requests.clear()
    run("ttft", completions_server)
    assert first == [body["prompt"] for body in completions_server.requests]


def test_shared_prompts_begin_alike_and_end_apart(completions_server: ScriptedServer) -> None:
    run("shared-prefix", completions_server)
    words = [prompt.split() for prompt in prompts(completions_server, QUICK.output_tokens)]
    assert len(words) == QUICK.short_requests[4]
    assert {len(each) for each in words} == {512}
    assert len({tuple(each[:448]) for each in words}) == 1
    assert len({tuple(each[448:]) for each in words}) == len(words)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_fails_on_a_server_that_refuses(
    name: str, completions_server: ScriptedServer
) -> None:
    def only_probes(body: dict[str, Any]) -> Reply:
        return Reply(completion(body)) if body["max_tokens"] == 1 else Reply([b"full"], 503)

    completions_server.script = only_probes
    with pytest.raises((ScenarioFailedError, ExceptionGroup)) as failure:
        run(name, completions_server)
    assert "HTTP 503: full" in "".join(traceback.format_exception(failure.value))


def test_one_failed_request_of_many_fails_the_scenario(completions_server: ScriptedServer) -> None:
    def last_fails(body: dict[str, Any]) -> Reply:
        num_measured = len(prompts(completions_server, QUICK.output_tokens))
        is_last = num_measured == sum(QUICK.short_requests.values())
        return Reply([b"full"], 503) if is_last else Reply(completion(body))

    completions_server.script = last_fails
    with pytest.raises(ScenarioFailedError, match="1 requests failed: HTTP 503: full"):
        run("decode", completions_server)


def test_a_server_that_stands_still_has_a_rate_of_zero(completions_server: ScriptedServer) -> None:
    def standing_still(body: dict[str, Any]) -> Reply:
        if body["max_tokens"] == 1:
            return Reply(completion(body))
        return Reply(completion(body, num_tokens=3)[:3], silent=True)

    completions_server.script = standing_still

    async def rate() -> float:
        async with load_of(completions_server.base_url, seed=1) as load:
            workload = await load.workload(prompt_tokens=8, output_tokens=64)
            return await load.rate_in_window(workload, streams=2, window_s=0.1)

    assert asyncio.run(rate()) == 0.0
    assert len(prompts(completions_server, 64)) == 2
