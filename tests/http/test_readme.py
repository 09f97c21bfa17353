"""Every example of the README, run as it stands; only the port is another one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.live_server import LiveServer

pytestmark = pytest.mark.not_under_gevent("each example is a process of its own")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block(language: str, containing: str) -> str:
    """The one block of a language that contains a text."""
    texts: list[str] = [text for kind, text in BLOCKS if kind == language and containing in text]
    (text,) = texts
    return text


def output_after(text: str) -> str:
    """The output that the README shows below a block."""
    return block("text", README.split(text)[1].split("```text\n")[1].split("```")[0])


def run(command: list[str], cwd: Path) -> str:
    """Run from an empty directory; anything on stderr is a failure."""
    result = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def content(events: str) -> tuple[str, str | None]:
    """The text and the finish reason of a chat stream."""
    *frames, done = [frame for frame in events.split("\n\n") if frame.strip()]
    assert done.strip() == "data: [DONE]"
    choices = [json.loads(frame.strip().removeprefix("data: "))["choices"][0] for frame in frames]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    return text, choices[-1]["finish_reason"]


def test_the_curl_example_prints_what_is_shown(live_server: LiveServer, tmp_path: Path) -> None:
    command = block("sh", "curl")
    shown = output_after(command)
    printed = run(["sh", "-c", command.replace(":8000", f":{live_server.port}")], tmp_path)
    assert content(printed) == content(shown)
    assert len(printed.splitlines()) == len(shown.splitlines()) + 1  # the last event's own end


def test_the_sdk_example_prints_what_is_shown(live_server: LiveServer, tmp_path: Path) -> None:
    code = block("python", "openai")
    printed = run([sys.executable, "-c", code.replace(":8000", f":{live_server.port}")], tmp_path)
    assert printed == output_after(code).strip()


def test_the_embedding_example_serves_below_its_prefix(tmp_path: Path) -> None:
    code = block("python", "init_app") + (
        "client = app.test_client()\n"
        "print(client.get('/ai/health/live').status_code)\n"
        "print(sorted(str(rule) for rule in app.url_map.iter_rules() if 'chat' in str(rule)))\n"
    )
    printed = run([sys.executable, "-c", code], tmp_path)
    assert printed.startswith("200\n")
    assert "/ai/v1/chat/completions" in printed


def test_the_python_example_answers(tmp_path: Path) -> None:
    printed = run([sys.executable, "-c", block("python", "register_model")], tmp_path)
    assert printed == "The capital of France is Paris."


def test_the_asyncio_example_answers(tmp_path: Path) -> None:
    printed = run([sys.executable, "-c", block("python", "asyncio")], tmp_path)
    assert printed == "The capital of France is Paris."


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    root = Path(__file__).parents[2]
    assert "make test" in README
    assert "make test" in (root / ".ci" / "run").read_text(encoding="utf-8")


def test_every_setting_is_listed() -> None:
    from realtime_serve.config import FIELDS

    table = README.split("## Settings")[1].split("##")[0]
    assert {name for name in FIELDS if f"`{name}`" not in table} == set()
