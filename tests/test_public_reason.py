"""Whoever asks for the health reads why something failed, and no more."""

from __future__ import annotations

import os
from pathlib import PurePath

import pytest

from realtime_serve.errors import ModelLoadError
from realtime_serve.public_reason import public_reason, without_directories


def test_an_error_of_ours_speaks_for_itself() -> None:
    assert public_reason(ModelLoadError("It is damaged.")) == "It is damaged."


def test_of_any_other_error_only_the_kind_is_told() -> None:
    reason = public_reason(OSError("password=hunter2"))
    assert reason == "OSError. The server's log says more."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/models/a.gguf is damaged.", "a.gguf is damaged."),
        ("It is in /a.", "It is in a."),
        ("'/srv/m/a.gguf': no", "'a.gguf': no"),
        ("~/m/a.gguf, ../b/c.gguf and ./d", "a.gguf, c.gguf and d"),
        ("read and/or written at 3 tokens/s / 4", "read and/or written at 3 tokens/s / 4"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_files_are_named_without_where_they_are(text: str, expected: str) -> None:
    assert without_directories(text) == expected


@pytest.mark.parametrize(
    "path",
    [
        "my models/a b",
        "/srv/my models/a b",
        "private/a b/",
        "./private/a b",
        "private//a b//",
        "/srv//my models/./a b/",
        "a b",
    ],
)
def test_a_path_that_is_known_may_be_relative_and_hold_spaces(path: str) -> None:
    for written in (path, str(PurePath(path))):
        assert without_directories(f"{written} does not exist.", path) == "a b does not exist."
        inside = os.path.join(written, "config.json")
        assert without_directories(f"{inside}: no", path) == "a b/config.json: no"


@pytest.mark.parametrize("path", ["/", ".", "./"])
def test_a_path_without_a_name_changes_nothing_else(path: str) -> None:
    assert without_directories("It is 3.5 / 2.", path) == "It is 3.5 / 2."


def test_a_known_path_is_no_part_of_a_longer_word() -> None:
    assert without_directories("random/m is no m.", "dom/m") == "random/m is no m."
