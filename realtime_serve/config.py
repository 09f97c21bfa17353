"""One loader for one frozen ServerConfig: file < environment < arguments.

A TOML file (flat keys, or one [realtime_serve] table) is overridden by
REALTIME_SERVE_* variables, and those by arguments. A key that is not a field of
ServerConfig is an error that lists the fields: a misspelt limit must not pass
as the default.

As text, a size may have a unit or be a share of free memory ("512MiB", "40%"), and a
number that may be unset can be "none". An empty variable is not given.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realtime_serve.errors import ConfigError
from realtime_serve.types import MemoryShare, ServerConfig

ENV_PREFIX = "REALTIME_SERVE_"
CONFIG_FILE_VARIABLE = "REALTIME_SERVE_CONFIG"
TOML_TABLE = "realtime_serve"

_SIZE = re.compile(r"(\d{1,20})\s*([KMG]i?B|B)?", re.IGNORECASE)  # 20 digits: any 64-bit number
_SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

_FIELD_TYPES = typing.get_type_hints(ServerConfig)
_NUMBERS: dict[Any, type[int] | type[float]]
_NUMBERS = {int: int, int | None: int, float: float, float | None: float}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_UNSET_NUMBER = "none"
FIELDS = tuple(field.name for field in dataclasses.fields(ServerConfig))
_SET_BY_DEFAULT = frozenset(
    field.name for field in dataclasses.fields(ServerConfig) if field.default is not None
)


def load_config(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    **arguments: Any,
) -> ServerConfig:
    """Build the configuration from its three sources.

    Args:
        path: TOML file; None takes REALTIME_SERVE_CONFIG's, or none.
        environ: Environment to read; None takes the process's.
        **arguments: Fields of ServerConfig; None means "not given".

    Returns:
        The checked configuration.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type or is out of range,
            or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    path = path if path is not None else environ.get(CONFIG_FILE_VARIABLE)
    values = _from_file(Path(path)) if path else {}
    values |= _from_environment(environ)
    values |= {name: value for name, value in arguments.items() if value is not None}
    _refuse_unknown(values, "argument")
    return ServerConfig(**{name: _parsed(name, value) for name, value in values.items()})


def to_texts(config: ServerConfig) -> dict[str, str]:
    """Give every field as the text that `load_config` reads it from.

    Args:
        config: A configuration.

    Returns:
        Texts by field; empty where the field is unset and that is its default.
    """
    values = {name: getattr(config, name) for name in FIELDS}
    return {name: _to_text(name, value) for name, value in values.items()}


def _to_text(name: str, value: Any) -> str:
    if value is not None:
        return str(value)
    return _UNSET_NUMBER if name in _SET_BY_DEFAULT else ""


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, not TOML, or a huge integer
        raise ConfigError(f"Cannot read the configuration file {path}: {error}") from error
    values = document.pop(TOML_TABLE) if TOML_TABLE in document else document
    if not isinstance(values, dict):
        raise ConfigError(f"{TOML_TABLE} in {path} must be a table.")
    if values is not document and document:
        raise ConfigError(
            f"{path} has keys beside its table [{TOML_TABLE}]: {', '.join(sorted(document))}. "
            "Move them into the table or remove them."
        )
    _refuse_unknown(values, f"key in {path}")
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(ENV_PREFIX) and name != CONFIG_FILE_VARIABLE
    }
    _refuse_unknown(values, f"{ENV_PREFIX}* variable")
    return {name: value for name, value in values.items() if value != ""}


def _refuse_unknown(values: Mapping[str, Any], where: str) -> None:
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise ConfigError(
            f"Unknown {where}: {', '.join(unknown)}. Known: {', '.join(sorted(FIELDS))}.",
            param=unknown[0],
        )


def _parsed(name: str, value: Any) -> Any:
    """Read what is no text given as a string; ServerConfig checks everything else."""
    if not isinstance(value, str):
        return value
    if name.endswith("_bytes"):
        return _parse_size(name, value)
    if _FIELD_TYPES[name] is bool:
        return _parse_truth(name, value)
    number = _NUMBERS.get(_FIELD_TYPES[name])
    return value if number is None else _parse_number(name, value, number)


def _parse_truth(name: str, text: str) -> bool:
    truth = _TRUTHS.get(text.strip().lower())
    if truth is None:
        raise ConfigError(f"{name} must be true or false, not {text!r}.", param=name)
    return truth


def _parse_number(name: str, text: str, number: type[int] | type[float]) -> float | None:
    may_be_unset = isinstance(None, _FIELD_TYPES[name])
    try:
        return None if may_be_unset and text == _UNSET_NUMBER else number(text)
    except ValueError:
        raise ConfigError(f"{name} must be a number, not {text!r}.", param=name) from None


def _parse_size(name: str, text: str) -> int | MemoryShare:
    may_be_share = MemoryShare in typing.get_args(_FIELD_TYPES[name])
    share = MemoryShare.parse(text) if may_be_share else None
    if share is not None:
        return share
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"{name} must be a number of bytes, such as 536870912 or 512MiB, not {text!r}.",
            param=name,
        )
    return int(match[1]) * _SIZE_UNITS[(match[2] or "").upper()]
