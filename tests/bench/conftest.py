from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from support.scripted_http import Handler, Listener, ScriptedServer


@pytest.fixture
def scripted_server() -> Iterator[ScriptedServer]:
    with Listener(("127.0.0.1", 0), Handler) as listener:
        listener.scripted = ScriptedServer(f"http://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
        thread.start()
        yield listener.scripted
        listener.shutdown()
        thread.join()
