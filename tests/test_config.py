"""Configuration: three sources, one order, and no key that passes unnoticed."""

from pathlib import Path

import pytest

from realtime_serve.config import load_config
from realtime_serve.errors import ConfigError
from realtime_serve.types import MemoryShare, ServerConfig


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_no_source_gives_the_defaults() -> None:
    assert load_config(environ={}) == ServerConfig()


def test_environment_overrides_file_and_arguments_override_both(tmp_path: Path) -> None:
    path = write(tmp_path / "serve.toml", "port = 1\nmax_num_seqs = 11\nmax_queue_depth = 111\n")
    environ = {"REALTIME_SERVE_PORT": "2", "REALTIME_SERVE_MAX_NUM_SEQS": "22"}
    config = load_config(path, environ=environ, port=3)
    assert (config.port, config.max_num_seqs, config.max_queue_depth) == (3, 22, 111)


def test_the_file_may_be_named_by_the_environment_and_hold_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "serve.toml", "[realtime_serve]\nport = 4\n")
    assert load_config(environ={"REALTIME_SERVE_CONFIG": str(path)}).port == 4


def test_an_argument_of_none_and_an_empty_variable_are_not_given() -> None:
    config = load_config(environ={"REALTIME_SERVE_MODEL": ""}, port=None)
    assert config == ServerConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1048576", 2**20), ("512MiB", 512 * 2**20), ("2 GB", 2 * 10**9), ("64kib", 64 * 1024)],
)
def test_sizes_in_bytes_may_have_a_unit(text: str, expected: int) -> None:
    assert load_config(environ={"REALTIME_SERVE_KV_CACHE_BYTES": text}).kv_cache_bytes == expected


def test_the_size_of_the_kv_cache_may_be_a_share_of_free_memory(tmp_path: Path) -> None:
    environ = {"REALTIME_SERVE_KV_CACHE_BYTES": "40%"}
    path = write(tmp_path / "serve.toml", "kv_cache_bytes = '12.5%'\n")
    assert load_config(environ=environ).kv_cache_bytes == MemoryShare(40)
    assert load_config(path, environ={}).kv_cache_bytes == MemoryShare(12.5)


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("False", False), ("0", False)])
def test_a_switch_is_true_or_false(text: str, expected: bool) -> None:
    environ = {"REALTIME_SERVE_ENABLE_PREFIX_CACHING": text}
    assert load_config(environ=environ).enable_prefix_caching is expected


def test_a_bound_that_is_set_by_default_is_unset_by_a_word() -> None:
    assert load_config(environ={"REALTIME_SERVE_TARGET_ITL_MS": "none"}).target_itl_ms is None
    assert load_config(environ={"REALTIME_SERVE_TARGET_ITL_MS": "20"}).target_itl_ms == 20.0


@pytest.mark.parametrize("source", ["file", "environment", "argument"])
def test_an_unknown_key_is_refused_and_the_known_ones_are_listed(
    source: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "serve.toml", "modle = 'x'\n") if source == "file" else None
    environ = {"REALTIME_SERVE_MODLE": "x"} if source == "environment" else {}
    arguments = {"modle": "x"} if source == "argument" else {}
    with pytest.raises(ConfigError, match=r"modle.*Known: .*max_model_len.*model,"):
        load_config(path, environ=environ, **arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("MAX_NUM_SEQS", "0"),
        ("MAX_NUM_SEQS", "1.5"),
        ("KV_CACHE_BYTES", "much"),
        ("KV_CACHE_BYTES", "9" * 9999),
        ("KV_CACHE_BYTES", "0%"),
        ("KV_CACHE_BYTES", "101%"),
        ("KV_CACHE_BYTES", "nan%"),
        ("KV_CACHE_BYTES", "x%"),
        ("MAX_BODY_BYTES", "40%"),
        ("MAX_NUM_SEQS", "none"),
        ("TARGET_ITL_MS", "0"),
        ("ENABLE_PREFIX_CACHING", "yes"),
        ("CPU_LEVEL", "sse2"),
        ("KEEP_ALIVE_S", "-1"),
        ("KEEP_ALIVE_S", "nan"),
        ("RATE_LIMIT_RPM", "inf"),
        ("RATE_LIMIT_BURST", "5"),
        ("RING_CAPACITY", "1048577"),
        ("MAX_QUEUE_DEPTH", "1048577"),
        ("DTYPE", "int3"),
        ("DRAIN_DELAY_S", "-1"),
        ("DRAIN_TIMEOUT_S", "inf"),
        ("ADMIN_API_KEY", "two words"),
        ("ADMIN_API_KEY", "caf\u00e9"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(environ={f"REALTIME_SERVE_{name}": value})
    assert caught.value.param == name.lower()


@pytest.mark.parametrize(
    "text",
    [
        "port = 'x'",
        "port = true",
        "model = 5",
        "realtime_serve = 5",
        "not toml",
        "port = " + "9" * 9999,
    ],
)
def test_a_bad_file_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_config(write(tmp_path / "serve.toml", text), environ={})


@pytest.mark.parametrize("table", ["", "port = 4"])
def test_keys_beside_the_table_are_refused_and_listed(table: str, tmp_path: Path) -> None:
    text = f"port = 1\nmodle = 'x'\n[realtime_serve]\n{table}\n[tool]\nkey = 2\n"
    with pytest.raises(ConfigError, match="modle, port, tool"):
        load_config(write(tmp_path / "serve.toml", text), environ={})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_config(tmp_path / "absent.toml", environ={})


def test_a_budget_smaller_than_the_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_batch_tokens"):
        load_config(environ={}, max_num_seqs=64, max_batch_tokens=32)


@pytest.mark.parametrize("text", ["admin_api_key = 'pass word'", "admin_api_key = 7734"])
def test_a_key_that_is_refused_is_not_shown(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path / "serve.toml", text), environ={})
    assert caught.value.param == "admin_api_key"
    assert "word" not in caught.value.message
    assert "7734" not in caught.value.message
