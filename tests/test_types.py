"""Configuration values: nothing of a wrong type or out of range can be built."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from realtime_serve import _batch_queue, _token_ring
from realtime_serve.errors import ConfigError, InvalidRequestError
from realtime_serve.types import (
    MAX_BATCH_TOKENS,
    MAX_QUEUE_DEPTH,
    MAX_RING_CAPACITY,
    MAX_SPECULATIVE_TOKENS,
    BatchConfig,
    MemoryShare,
    ModelConfig,
    SamplingParams,
    ServerConfig,
)

CONFIG_TYPES: list[type[Any]] = [BatchConfig, ModelConfig, ServerConfig]

EVERY_FIELD = [(kind, each.name) for kind in CONFIG_TYPES for each in dataclasses.fields(kind)]
INT_FIELDS = [
    (kind, each.name)
    for kind in CONFIG_TYPES
    for each in dataclasses.fields(kind)
    if each.type in {"int", "int | None"}
]
TRUTH_FIELDS = [
    (kind, each.name)
    for kind in CONFIG_TYPES
    for each in dataclasses.fields(kind)
    if each.type == "bool"
]
TEXT_FIELDS = [
    (ModelConfig, "path"),
    (ModelConfig, "name"),
    (ModelConfig, "cache_dir"),
    (ServerConfig, "model"),
    (ServerConfig, "served_model_name"),
    (ServerConfig, "host"),
]


def refused_field(kind: type[Any], **values: Any) -> str | None:
    with pytest.raises(ConfigError) as caught:
        kind(**values)
    return caught.value.param


@pytest.mark.parametrize("value", [[], b"x"], ids=repr)
@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD)
def test_every_field_refuses_what_is_not_of_its_type(
    kind: type[Any], name: str, value: object
) -> None:
    assert refused_field(kind, **{name: value}) == name


@pytest.mark.parametrize(("kind", "name"), sorted(set(EVERY_FIELD) - set(TRUTH_FIELDS), key=str))
def test_a_truth_is_no_number_and_no_text(kind: type[Any], name: str) -> None:
    assert refused_field(kind, **{name: True}) == name


@pytest.mark.parametrize("value", [0, 1, "true", None], ids=repr)
@pytest.mark.parametrize(("kind", "name"), TRUTH_FIELDS)
def test_a_switch_takes_nothing_but_true_and_false(
    kind: type[Any], name: str, value: object
) -> None:
    assert refused_field(kind, **{name: value}) == name
    assert getattr(kind(**{name: False}), name) is False


@pytest.mark.parametrize("value", ["5", 1.5], ids=repr)
@pytest.mark.parametrize(("kind", "name"), INT_FIELDS)
def test_a_whole_number_is_neither_text_nor_a_fraction(
    kind: type[Any], name: str, value: object
) -> None:
    assert refused_field(kind, **{name: value}) == name


@pytest.mark.parametrize("text", ["", "a\0b"], ids=repr)
@pytest.mark.parametrize(("kind", "name"), TEXT_FIELDS)
def test_text_that_the_environment_cannot_hold_is_refused(
    kind: type[Any], name: str, text: str
) -> None:
    assert refused_field(kind, **{name: text}) == name


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize(
    "name", ["keep_alive_s", "rate_limit_rpm", "stall_timeout_s", "stream_timeout_s"]
)
def test_durations_and_rates_are_positive_and_finite(name: str, value: float) -> None:
    assert refused_field(ServerConfig, **{name: value}) == name


def test_a_whole_number_passes_for_a_fraction() -> None:
    assert ServerConfig(keep_alive_s=15) == ServerConfig(keep_alive_s=15.0)


@pytest.mark.parametrize("kind", [BatchConfig, ServerConfig])
def test_the_target_between_tokens_may_be_unset_but_is_otherwise_positive(kind: type[Any]) -> None:
    assert kind(target_itl_ms=None).target_itl_ms is None
    for value in (0, -1.0, math.nan):
        assert refused_field(kind, target_itl_ms=value) == "target_itl_ms"


@pytest.mark.parametrize("kind", [BatchConfig, ServerConfig])
def test_guessing_can_be_turned_off_but_not_be_negative(kind: type[Any]) -> None:
    assert kind(num_speculative_tokens=0).num_speculative_tokens == 0
    assert refused_field(kind, num_speculative_tokens=-1) == "num_speculative_tokens"


@pytest.mark.parametrize("kind", [ModelConfig, ServerConfig])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "tpu"),
        ("dtype", "int3"),
        ("cpu_level", "sse2"),
        ("activation_dtype", "float32"),
        ("kv_cache_dtype", "q4"),
    ],
)
def test_a_choice_is_one_of_the_list(kind: type[Any], name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be one of auto, "):
        kind(**{name: value})


@pytest.mark.parametrize("kind", [ModelConfig, ServerConfig])
@pytest.mark.parametrize("activation_dtype", ["bfloat16", "int8"])
def test_only_quantised_weights_have_a_choice_of_activations(
    kind: type[Any], activation_dtype: str
) -> None:
    for dtype in ("auto", "float32", "bfloat16"):
        with pytest.raises(ConfigError, match=f"q4 and q8, not '{dtype}'") as caught:
            kind(dtype=dtype, activation_dtype=activation_dtype)
        assert caught.value.param == "activation_dtype"
    for dtype in ("q8", "q4"):
        config = kind(dtype=dtype, activation_dtype=activation_dtype)
        assert config.activation_dtype == activation_dtype


@pytest.mark.parametrize("kind", [ModelConfig, ServerConfig])
@pytest.mark.parametrize("dtype", ["q8", "q4"])
def test_quantised_weights_are_refused_on_a_gpu_with_what_runs_there(
    kind: type[Any], dtype: str
) -> None:
    with pytest.raises(ConfigError, match=f"'{dtype}' runs on the CPU only.*bfloat16") as caught:
        kind(device="cuda", dtype=dtype)
    assert caught.value.param == "dtype"
    for supported in ("auto", "bfloat16", "float32"):
        assert kind(device="cuda", dtype=supported).dtype == supported


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1, math.nan, math.inf])
def test_a_share_of_memory_is_more_than_nothing_and_at_most_all(percent: float) -> None:
    assert refused_field(MemoryShare, percent=percent) == "kv_cache_bytes"
    assert MemoryShare(100).of(2**40) == 2**40


@pytest.mark.parametrize(("text", "percent"), [("40%", 40.0), (" 2.5 % ", 2.5), ("1e1%", 10.0)])
def test_a_share_of_memory_is_written_with_a_percent_sign(text: str, percent: float) -> None:
    assert MemoryShare.parse(text) == MemoryShare(percent)
    assert MemoryShare.parse(str(MemoryShare(percent))) == MemoryShare(percent)


@pytest.mark.parametrize("text", ["40", "%", "x%", "4%0", "40%%"])
def test_other_texts_are_no_share_of_memory(text: str) -> None:
    assert MemoryShare.parse(text) is None


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_fits_sixteen_bits(port: int) -> None:
    assert refused_field(ServerConfig, port=port) == "port"


@pytest.mark.parametrize("kind", [BatchConfig, ServerConfig])
@pytest.mark.parametrize(
    ("name", "maximum"),
    [
        ("max_batch_tokens", MAX_BATCH_TOKENS),
        ("max_queue_depth", MAX_QUEUE_DEPTH),
        ("ring_capacity", MAX_RING_CAPACITY),
        ("num_speculative_tokens", MAX_SPECULATIVE_TOKENS),
    ],
)
def test_limits_are_reached_but_not_passed(kind: type[Any], name: str, maximum: int) -> None:
    assert getattr(kind(**{name: maximum}), name) == maximum
    with pytest.raises(ConfigError, match=f"{name} must be at most {maximum}") as caught:
        kind(**{name: maximum + 1})
    assert caught.value.param == name


def test_the_repeated_limits_are_those_of_the_native_code() -> None:
    assert _batch_queue.MAX_CAPACITY == MAX_QUEUE_DEPTH
    assert _token_ring.MAX_CAPACITY == MAX_RING_CAPACITY


@pytest.mark.parametrize(
    ("settings", "lease_s"),
    [
        ({}, 60.0),
        ({"stall_timeout_s": 5.0}, 5.0),
        ({"stall_timeout_s": None}, None),
        ({"slow_reader_policy": "drop"}, 0.0),
        ({"slow_reader_policy": "drop", "stall_timeout_s": None}, 0.0),
    ],
)
def test_a_reader_may_do_nothing_until_it_stalls_or_not_at_all(
    settings: dict[str, Any], lease_s: float | None
) -> None:
    assert BatchConfig(**settings).reader_lease_s == lease_s


@pytest.mark.parametrize("kind", [BatchConfig, ServerConfig])
def test_what_becomes_of_slow_readers_is_one_of_two_words(kind: type[Any]) -> None:
    assert refused_field(kind, slow_reader_policy="wait") == "slow_reader_policy"


def test_what_a_half_close_means_is_one_of_two_words() -> None:
    assert refused_field(ServerConfig, half_close="ignore") == "half_close"


def test_a_burst_without_a_rate_is_refused() -> None:
    assert refused_field(ServerConfig, rate_limit_burst=5) == "rate_limit_burst"
    assert ServerConfig(rate_limit_burst=5, rate_limit_rpm=60).rate_limit_burst == 5


def test_every_setting_reaches_the_part_that_reads_it() -> None:
    settings: dict[str, Any] = {
        "device": "cpu",
        "dtype": "q4",
        "cpu_level": "avx2",
        "activation_dtype": "int8",
        "max_model_len": 7,
        "kv_cache_dtype": "int8",
        "kv_cache_bytes": MemoryShare(3),
        "enable_prefix_caching": False,
        "num_threads": 1,
        "cache_dir": "c",
        "share_weights": True,
        "max_num_seqs": 2,
        "max_batch_tokens": 5,
        "target_itl_ms": None,
        "num_speculative_tokens": 3,
        "max_queue_depth": 4,
        "ring_capacity": 8,
        "slow_reader_policy": "drop",
        "stall_timeout_s": 9.0,
    }
    config = ServerConfig(model="p", served_model_name="n", **settings)
    parts = dataclasses.asdict(config.model_config()) | dataclasses.asdict(config.batch_config())
    assert parts == {
        "path": "p",
        "name": "n",
        **settings,
        "kv_cache_bytes": dataclasses.asdict(MemoryShare(3)),
    }


def test_a_model_has_no_field_that_nothing_reads() -> None:
    assert "version" not in {each.name for each in dataclasses.fields(ModelConfig)}


@pytest.mark.parametrize("value", [-0.1, 2.1, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p"])
def test_sampling_filters_refuse_what_is_out_of_range_or_no_number(name: str, value: float) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert caught.value.param == name
