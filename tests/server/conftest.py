"""The servers that these tests talk to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from realtime_serve import InferenceServer
from support.scripted_servers import EndlessAlphabet, alphabet_server, serve


@pytest.fixture
def server() -> Iterator[InferenceServer]:
    """Its model ends after z."""
    with alphabet_server() as server:
        yield server


@pytest.fixture
def endless() -> Iterator[InferenceServer]:
    """Its model goes on after z."""
    with serve(EndlessAlphabet) as server:
        yield server
