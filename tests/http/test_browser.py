"""A real browser's EventSource reads a stream whose connection is cut: the README's own example."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.cutting_proxy import HANG_S, CuttingProxy, proxy_to
from support.live_server import MODEL, LiveServer

pytestmark = pytest.mark.not_under_gevent("the browser and the server are processes of their own")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

QUESTION = "Name the seven days of the week."

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which root has to do without
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

REPORT = """
const report = (end) => fetch("/report", { method: "POST", body: JSON.stringify({ text, end }) });
"""


@contextmanager
def browser_at(url: str, profile: Path) -> Iterator[None]:
    """Open a page in headless Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is missing: apt-get install chromium")
    process = subprocess.Popen(
        [chromium, *FLAGS, f"--user-data-dir={profile}", url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def page(script: str) -> str:
    return f"<!doctype html><meta charset=utf-8><title>test</title><script>{script}</script>"


def reported(proxy: CuttingProxy, profile: Path) -> dict[str, str]:
    """What the page says in the end."""
    with browser_at(proxy.url, profile):
        report: dict[str, str] = proxy.reports.get(timeout=HANG_S)
    return report


def expected_text(server: LiveServer) -> str:
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    answer: Any = server.post("/v1/chat/completions", body).json()
    return str(answer["choices"][0]["message"]["content"])


def test_an_eventsource_that_is_cut_shows_the_whole_text(
    live_server: LiveServer, tmp_path: Path
) -> None:
    (example,) = re.findall(r"^```js\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    script = f"""
      let text = "";
      {REPORT}
      {example}
      ask({json.dumps(QUESTION)}, (more) => (text += more)).then(() => report("done"), report);
    """
    with proxy_to(live_server.port, page(script), cuts=[1500, 900, 2000]) as proxy:
        report = reported(proxy, tmp_path)
    assert report == {"text": expected_text(live_server), "end": "done"}
    assert proxy.statuses == [200] * 4
    first, *others = proxy.last_event_ids
    assert first is None
    numbers = [int(str(each).partition(":")[2]) for each in others]
    assert numbers == sorted(set(numbers)), "each connection has brought something new"


def test_an_eventsource_that_nobody_closes_stops_at_the_end(
    live_server: LiveServer, tmp_path: Path
) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
        "stream_options": {"resumable": True},
    }
    answer = live_server.post("/v1/chat/completions", body)
    script = f"""
      let text = "";
      {REPORT}
      const source = new EventSource("/v1/streams/{answer.headers["x-stream-id"]}");
      source.onmessage = ({{ data }}) => {{
        if (data !== "[DONE]") text += JSON.parse(data).choices[0].delta.content ?? "";
      }};
      source.onerror = () => {{
        if (source.readyState === EventSource.CLOSED) report("closed");
      }};
    """
    with proxy_to(live_server.port, page(script), cuts=[]) as proxy:
        report = reported(proxy, tmp_path)
    assert report == {"text": expected_text(live_server), "end": "closed"}
    assert proxy.statuses == [200, 204]
