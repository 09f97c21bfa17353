"""The strict reader of request bodies: bytes to one JSON object, or a refusal.

The standard parser accepts what JSON forbids (NaN, duplicate keys) and lets a body
choose how deep it recurses and how long it holds the GIL. So the structure is bounded
by a scan that does not recurse, before anything is built; the parser then never needs
more than MAX_NESTING frames of the C stack, whatever thread or greenlet calls it, and
whatever the interpreter's own limit is. Values that must be refused are parsed into
_Defect markers, and only a body that has one is searched for the way to it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from realtime_serve.api.fields import join_path, label
from realtime_serve.errors import InvalidRequestError

MAX_NESTING = 100
"""Deeper than real tool schemas, far below any interpreter's recursion limit."""

MAX_VALUES = 32_768
"""Objects, lists and further members of them: bounds the time one body holds the GIL."""

MAX_NUMBER_CHARS = 128
"""The longest exact decimal that clients send for a double has about 60."""

MAX_QUOTED_NUMBER_CHARS = 32

PROBE_BYTES = 16 * 1024
"""A body made to nest deep does so at its start: refused there, whatever its length."""

# Matches to the end if the closing quote is missing: each byte is looked at once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_STRUCTURE = b"[]{},"
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
_DEPTH_CHANGE = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord(","): 0}

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Read a request's body.

    A UTF-8 byte order mark is skipped; lone surrogates become U+FFFD.

    Args:
        body: The whole body, already bounded in length.

    Returns:
        The JSON object: numbers are finite, no key appears twice, nesting is bounded.

    Raises:
        InvalidRequestError: Anything else; `param` is the path to the value at fault
            where one value is.
    """
    text = _decode(body)
    _check_structure(body)
    reader = _Reader()
    value = reader.read(text)
    if b"\\u" in body and _SURROGATE_ESCAPE.search(body):
        value = reader.replace_lone_surrogates(value)
    if reader.has_defect:
        raise _defect_error(value)
    if not isinstance(value, dict):
        raise InvalidRequestError("The body must be a JSON object, as in {...}.")
    return value


def _decode(body: bytes) -> str:
    if not body or body.isspace():
        raise InvalidRequestError("The body is empty; send a JSON object.")
    if b"\0" in body[:4]:
        raise InvalidRequestError("The body must be UTF-8; it looks like UTF-16 or UTF-32.")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"The body is not valid UTF-8: byte {error.start} starts no character."
        raise InvalidRequestError(message) from None


def _check_structure(body: bytes) -> None:
    """Bound depth and size; bodies too small to break a bound are not scanned."""
    num_containers = body.count(b"[") + body.count(b"{")
    if num_containers <= MAX_NESTING and body.count(b",") <= MAX_VALUES - MAX_NESTING:
        return
    _check_skeleton(body[:PROBE_BYTES])
    _check_skeleton(body)


def _check_skeleton(body: bytes) -> None:
    # A member of an object is one value and two strings.
    max_strings = 2 * MAX_VALUES
    rest, num_strings = _STRING.subn(b"", body, count=max_strings + 1)
    skeleton = rest.translate(None, _NOT_STRUCTURE)
    num_values = len(skeleton) - skeleton.count(b"]") - skeleton.count(b"}")
    if num_strings > max_strings or num_values > MAX_VALUES:
        raise InvalidRequestError(f"The body has too many values; at most {MAX_VALUES} are read.")
    depths = accumulate(map(_DEPTH_CHANGE.__getitem__, skeleton))
    if any(depth > MAX_NESTING for depth in depths):
        raise InvalidRequestError(
            f"The body is nested too deep; at most {MAX_NESTING} levels are read."
        )


@dataclass(frozen=True, slots=True)
class _Defect:
    """Stands in the tree for a value that must be refused."""

    problem: str
    key: str | None = None


class _Reader:
    """One run of the parser, which remembers whether it met a defect."""

    def __init__(self) -> None:
        self.has_defect = False

    def read(self, text: str) -> object:
        decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=self._float,
            parse_int=self._int,
        )
        try:
            return decoder.decode(text)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno} column {error.colno}"
            message = f"The body is not valid JSON: {error.msg}: {where}."
            raise InvalidRequestError(message) from None

    def replace_lone_surrogates(self, value: object) -> object:
        """Rebuild the tree; keys that become the same by it are duplicates."""
        if isinstance(value, str):
            return _replace_surrogates(value)
        if isinstance(value, list):
            return [self.replace_lone_surrogates(entry) for entry in value]
        if isinstance(value, dict):
            replace = self.replace_lone_surrogates
            return self._object([(_replace_surrogates(k), replace(v)) for k, v in value.items()])
        return value

    def _defect(self, problem: str, key: str | None = None) -> _Defect:
        self.has_defect = True
        return _Defect(problem, key)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Defect:
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        counts = Counter(key for key, _ in pairs)
        duplicate = next(key for key, count in counts.items() if count > 1)
        return self._defect("appears twice in the same object; send it once", duplicate)

    def _constant(self, text: str) -> _Defect:
        return self._defect(f"is {text}, which is not a JSON number; send a finite number")

    def _float(self, text: str) -> float | _Defect:
        if len(text) > MAX_NUMBER_CHARS:
            return self._too_long(text)
        number = float(text)
        if math.isinf(number):
            return self._defect(f"is {_quote(text)}, which is too large; send a finite number")
        return number

    def _int(self, text: str) -> int | _Defect:
        return int(text) if len(text) <= MAX_NUMBER_CHARS else self._too_long(text)

    def _too_long(self, text: str) -> _Defect:
        return self._defect(
            f"is a number of {len(text)} characters; at most {MAX_NUMBER_CHARS} are read"
        )


def _replace_surrogates(text: str) -> str:
    return _LONE_SURROGATE.sub("\ufffd", text)


def _quote(number: str) -> str:
    if len(number) <= MAX_QUOTED_NUMBER_CHARS:
        return number
    return number[:MAX_QUOTED_NUMBER_CHARS] + "..."


def _defect_error(value: object) -> InvalidRequestError:
    found = _find_defect(value, ())
    assert found is not None
    path, defect = found
    param = join_path(path) if path else None
    if defect.key is not None:
        return InvalidRequestError(f"{label(defect.key)} {defect.problem}.", param=param)
    return InvalidRequestError(f"{param or 'The body'} {defect.problem}.", param=param)


_Path = tuple[str | int, ...]


def _find_defect(value: object, path: _Path) -> tuple[_Path, _Defect] | None:
    """Walk in document order to the first defect; at most MAX_NESTING frames deep."""
    if isinstance(value, _Defect):
        return (path if value.key is None else (*path, value.key)), value
    for step, entry in _members(value):
        if found := _find_defect(entry, (*path, step)):
            return found
    return None


def _members(value: object) -> list[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []
