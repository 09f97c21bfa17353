"""One loader for one frozen ServerConfig: file < environment < arguments.

A TOML file (flat keys, or a [realtime_serve] table) is overridden by
REALTIME_SERVE_* variables, and those by arguments. A key that is not a field of
ServerConfig is an error that lists the fields: a misspelt limit must not pass
as the default.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realtime_serve.errors import ConfigError
from realtime_serve.types import ServerConfig

ENV_PREFIX = "REALTIME_SERVE_"
CONFIG_FILE_VARIABLE = "REALTIME_SERVE_CONFIG"
TOML_TABLE = "realtime_serve"

_SIZE = re.compile(r"(\d+)\s*([KMG]i?B|B)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

_FIELD_TYPES = typing.get_type_hints(ServerConfig)
FIELDS = tuple(field.name for field in dataclasses.fields(ServerConfig))


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
    return ServerConfig(**{name: _convert(name, value) for name, value in values.items()})


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"Cannot read the configuration file {path}: {error}") from error
    values = document.get(TOML_TABLE, document)
    if not isinstance(values, dict):
        raise ConfigError(f"{TOML_TABLE} in {path} must be a table.")
    _refuse_unknown(values, f"key in {path}")
    return dict(values)


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


def _convert(name: str, value: Any) -> Any:
    """Bring one value to its field's type; strings come from the environment."""
    target = _plain_type(_FIELD_TYPES[name])
    if isinstance(value, str) and name.endswith("_bytes"):
        return _parse_size(name, value)
    if isinstance(value, str) and target in (int, float):
        return _parse_number(name, value, target)
    if target is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, target):
        raise ConfigError(f"{name} must be of type {target.__name__}, not {value!r}.", param=name)
    return value


def _plain_type(annotation: Any) -> type:
    """The one concrete type behind `X | None` or a Literal of strings."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not types.NoneType)
    return str if typing.get_origin(annotation) is typing.Literal else annotation


def _parse_number(name: str, text: str, target: type) -> int | float:
    try:
        return target(text)  # type: ignore[no-any-return]
    except ValueError:
        raise ConfigError(f"{name} must be a number, not {text!r}.", param=name) from None


def _parse_size(name: str, text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"{name} must be a number of bytes, such as 536870912 or 512MiB, not {text!r}.",
            param=name,
        )
    return int(match[1]) * _SIZE_UNITS[(match[2] or "").upper()]
