from __future__ import annotations

import pytest

import benchmark_client
from support.scripted_http import Reply, ScriptedServer


def test_the_short_client_counts_every_request_over_pooled_connections(
    scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark_client.main(scripted_server.base_url, "2")
    figures = dict(line.rsplit(":", 1) for line in capsys.readouterr().out.splitlines())
    assert int(figures["Successful requests"]) == 8
    assert len([body for body in scripted_server.requests if body["max_tokens"] == 64]) == 8
    assert all(float(figure) > 0 for figure in figures.values())
    assert scripted_server.num_connections == 2


def test_the_short_client_shows_why_a_request_was_refused(scripted_server: ScriptedServer) -> None:
    scripted_server.script = lambda body: Reply([b"the queue is full"], 503)
    with pytest.raises(RuntimeError, match="HTTP 503: the queue is full"):
        benchmark_client.main(scripted_server.base_url, "1")
