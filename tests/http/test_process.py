"""Processes: they start, they stop, they leave nothing behind."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.live_server import MODEL, LiveServer, free_port, start_program, start_server
from support.processes import children, is_running, is_stopped

pytestmark = pytest.mark.not_under_gevent("the server is a process of its own")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_an_idle_server_stops_cleanly(number: int, tmp_path: Path, gguf_path: str) -> None:
    server = start_server(tmp_path / "log", environ={"REALTIME_SERVE_MODEL": gguf_path})
    workers = children(server.process.pid)
    assert len(workers) == 1
    body = {"model": MODEL, "prompt": "Hi", "max_tokens": 2}
    assert server.post("/v1/completions", body).status == 200
    assert server.stop(number) == 0, server.log
    assert not any(is_running(worker) for worker in workers)
    for trouble in ("Traceback", "abort", "core dumped", "terminate called", "Segmentation"):
        assert trouble not in server.log


def test_an_idle_pooled_connection_does_not_delay_the_end(tmp_path: Path) -> None:
    """Compared with gunicorn's own keep-alive time, which is made absurd."""
    server = start_server(tmp_path / "log", "--keep-alive=1000", "--graceful-timeout=1000")
    pooled = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    pooled.request("GET", "/health/live")
    assert pooled.getresponse().read()
    assert server.stop() == 0, server.log
    assert "error" not in server.log.lower()
    pooled.close()


def test_a_server_stops_while_it_generates(tmp_path: Path) -> None:
    """The inference thread is inside torch when the interpreter goes: it must be joined."""
    server = start_server(tmp_path / "log", "--graceful-timeout=1")
    body = {"model": MODEL, "prompt": "Hi", "max_tokens": 8000, "ignore_eos": True}
    client = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(server.port), str(body)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server.wait_until(lambda: server.request("GET", "/health").json()["running"] == 1, "running")
    assert server.stop() == 0, server.log
    assert "Fatal Python error" not in server.log
    client.wait(60)


def test_a_server_that_packs_weights_stops_and_leaves_no_unfinished_file(
    tmp_path: Path, gguf_path: str
) -> None:
    """The packing process is stopped midway: a server that waited for it would wait for ever."""
    cache = tmp_path / "cache"
    environ = {"REALTIME_SERVE_MODEL": gguf_path, "REALTIME_SERVE_CACHE_DIR": str(cache)}
    server = start_server(tmp_path / "log", "--graceful-timeout=1000", environ=environ, wait=False)
    packing = stop_packing_process(server, cache)
    assert server.stop() == 0, server.log
    assert not is_running(packing)
    assert {path.name for path in cache.iterdir()} == {"files.json", "lock"}
    assert "Traceback" not in server.log


def stop_packing_process(server: LiveServer, cache: Path) -> int:
    """Stop the process that packs as soon as it has begun to write."""
    server.wait_until((cache / "unfinished").exists, "packing")
    (worker,) = children(server.process.pid)
    (packing,) = children(worker)
    os.kill(packing, signal.SIGSTOP)
    server.wait_until(lambda: is_stopped(packing), "stopped midway")
    assert (cache / "unfinished").exists()
    return packing


_CLIENT = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=120)
body = json.dumps({**eval(sys.argv[2]), "stream": True})
connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
connection.getresponse().read()
"""


def test_a_preloaded_app_starts_its_model_in_the_worker(tmp_path: Path) -> None:
    """Threads started before the fork would be lost; the first request starts them after it."""
    server = start_server(tmp_path / "log", "--preload")
    body = {"model": MODEL, "prompt": "Hi", "max_tokens": 2}
    assert server.post("/v1/completions", body).status == 200
    assert server.stop() == 0, server.log


def test_a_missing_model_is_one_clear_sentence(tmp_path: Path) -> None:
    environ = {"REALTIME_SERVE_MODEL": str(tmp_path / "absent.gguf")}
    server = start_server(tmp_path / "log", environ=environ, wait=False)
    assert server.process.wait(60) != 0
    assert "absent.gguf" in server.log
    assert "ModelLoadError" in server.log


def test_an_unknown_setting_stops_the_start(tmp_path: Path) -> None:
    server = start_server(tmp_path / "log", environ={"REALTIME_SERVE_MODLE": "x"}, wait=False)
    assert server.process.wait(60) != 0
    assert "Unknown REALTIME_SERVE_* variable: modle. Known: " in server.log


def test_the_command_serves_the_same_app(tmp_path: Path, gguf_path: str) -> None:
    port = free_port()
    command = [sys.executable, "-m", "realtime_serve.cli", "serve", gguf_path, f"--port={port}"]
    command += ["--served-model-name=mine", "--max-model-len=512"]
    server = start_program(command, port, tmp_path / "log")
    (card,) = server.request("GET", "/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == ("mine", 512)
    assert server.stop() == 0, server.log


def test_the_settings_for_gunicorn_serve_the_app_and_open_no_control_socket(
    tmp_path: Path, gguf_path: str
) -> None:
    port, home = free_port(), tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "gunicorn", "-c", "python:realtime_serve.gunicorn_conf"]
    environ = {"HOME": str(home), "REALTIME_SERVE_MODEL": gguf_path}
    environ |= {"REALTIME_SERVE_CACHE_DIR": "none", "XDG_RUNTIME_DIR": str(home)}
    server = start_program(
        [*command, f"--bind=127.0.0.1:{port}"], port, tmp_path / "log", environ=environ
    )
    assert "Using worker: gevent" in server.log
    assert [path for path in tmp_path.rglob("*") if path.is_socket()] == []
    assert server.stop() == 0, server.log


def test_a_worker_may_open_as_many_descriptors_as_the_system_grants(
    tmp_path: Path, gguf_path: str
) -> None:
    port = free_port()
    gunicorn = f"{sys.executable} -m gunicorn -c python:realtime_serve.gunicorn_conf"
    limited = f"ulimit -Sn 200; ulimit -Hn 900; exec {gunicorn} --bind=127.0.0.1:{port}"
    environ = {"REALTIME_SERVE_MODEL": gguf_path}
    server = start_program(["bash", "-c", limited], port, tmp_path / "log", environ=environ)
    (worker,) = children(server.process.pid)
    assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (900, 900)
    assert server.stop() == 0, server.log


def test_the_command_refuses_a_missing_model_in_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "realtime_serve.cli", "serve", str(tmp_path / "absent.gguf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "absent.gguf" in result.stderr
