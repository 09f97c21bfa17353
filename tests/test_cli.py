"""The command line: what gunicorn is told, and that the worker gets the whole configuration."""

from __future__ import annotations

import sys

import pytest
from gunicorn.util import parse_address
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.cli import _environment, gunicorn_command, main
from realtime_serve.config import CONFIG_FILE_VARIABLE, ENV_PREFIX, FIELDS, load_config
from realtime_serve.types import (
    ACTIVATION_DTYPES,
    CPU_LEVELS,
    DEVICES,
    DTYPES,
    HALF_CLOSES,
    KV_CACHE_DTYPES,
    MAX_BATCH_TOKENS,
    MAX_QUEUE_DEPTH,
    MAX_RING_CAPACITY,
    MAX_SPECULATIVE_TOKENS,
    SLOW_READER_POLICIES,
    Device,
    DType,
    MemoryShare,
    ServerConfig,
)

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
GPU_DTYPES = ("auto", "float32", "bfloat16")
COUNTS = st.integers(1, 2**63)
FRACTIONS = st.floats(0, sys.float_info.max, exclude_min=True)
MEMORY_SHARES = st.builds(MemoryShare, st.floats(0, 100, exclude_min=True))
RATE_LIMITS = st.tuples(FRACTIONS, st.none() | COUNTS) | st.just((None, None))


@st.composite
def server_configs(draw: st.DrawFn) -> ServerConfig:
    rate_limit_rpm, rate_limit_burst = draw(RATE_LIMITS)
    max_num_seqs = draw(st.integers(1, MAX_BATCH_TOKENS - 100))
    device: Device = draw(st.sampled_from(DEVICES))
    dtype: DType = draw(st.sampled_from(DTYPES if device != "cuda" else GPU_DTYPES))
    is_quantised = dtype in {"q8", "q4"}
    return ServerConfig(
        model=draw(st.none() | TEXTS),
        served_model_name=draw(st.none() | TEXTS),
        device=device,
        dtype=dtype,
        max_model_len=draw(st.none() | COUNTS),
        cpu_level=draw(st.sampled_from(CPU_LEVELS)),
        activation_dtype=draw(st.sampled_from(ACTIVATION_DTYPES[: 3 if is_quantised else 1])),
        kv_cache_dtype=draw(st.sampled_from(KV_CACHE_DTYPES)),
        kv_cache_bytes=draw(COUNTS | MEMORY_SHARES),
        enable_prefix_caching=draw(st.booleans()),
        num_threads=draw(st.none() | COUNTS),
        cache_dir=draw(st.none() | TEXTS),
        share_weights=draw(st.booleans()),
        max_num_seqs=max_num_seqs,
        max_batch_tokens=max_num_seqs + draw(st.integers(0, 100)),
        target_itl_ms=draw(st.none() | FRACTIONS),
        num_speculative_tokens=draw(st.integers(0, MAX_SPECULATIVE_TOKENS)),
        max_queue_depth=draw(st.integers(1, MAX_QUEUE_DEPTH)),
        ring_capacity=draw(st.integers(1, MAX_RING_CAPACITY)),
        slow_reader_policy=draw(st.sampled_from(SLOW_READER_POLICIES)),
        stall_timeout_s=draw(st.none() | FRACTIONS),
        stream_timeout_s=draw(st.none() | FRACTIONS),
        half_close=draw(st.sampled_from(HALF_CLOSES)),
        max_body_bytes=draw(COUNTS),
        keep_alive_s=draw(FRACTIONS),
        rate_limit_rpm=rate_limit_rpm,
        rate_limit_burst=rate_limit_burst,
        admin_api_key=draw(st.none() | KEYS),
        drain_delay_s=draw(st.just(0) | FRACTIONS),
        drain_timeout_s=draw(st.just(0) | FRACTIONS),
        host=draw(TEXTS),
        port=draw(st.integers(0, 65535)),
    )


def test_the_environment_names_every_field() -> None:
    variables = {ENV_PREFIX + name.upper() for name in FIELDS}
    assert set(_environment(ServerConfig())) == variables | {CONFIG_FILE_VARIABLE}


@given(server_configs(), server_configs())
def test_a_configuration_survives_the_way_through_any_environment(
    config: ServerConfig, other: ServerConfig
) -> None:
    environ = {**_environment(other), CONFIG_FILE_VARIABLE: "absent.toml", **_environment(config)}
    assert load_config(environ=environ) == config


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("::1", "::1"),
        ("::", "::"),
        ("[::1]", "::1"),
    ],
)
def test_gunicorn_binds_the_host_and_the_port(host: str, bound: str) -> None:
    command = gunicorn_command(ServerConfig(host=host, port=8123))
    (address,) = [each for each in command if each.startswith("--bind=")]
    assert parse_address(address.removeprefix("--bind=")) == (bound, 8123)


def test_a_wrong_setting_ends_the_command_with_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--port=70000"]) == 2
    message = capsys.readouterr().err
    assert message == "realtime-serve: port must be between 0 and 65535, not 70000.\n"
