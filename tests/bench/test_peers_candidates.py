"""Each candidate is started as its name says."""

from __future__ import annotations

import pytest

from peers.candidates import OURS, Candidate, our_candidates
from realtime_serve.config import load_config
from realtime_serve.types import ServerConfig

CANDIDATES = {each.name: each for each in our_candidates()}


def config_of(candidate: Candidate, inherited: dict[str, str] | None = None) -> ServerConfig:
    return load_config(environ={**(inherited or {}), **candidate.launch(8000).environ})


@pytest.mark.parametrize(
    ("precision", "dtype", "activation_dtype", "kv_cache_dtype"),
    [
        ("bfloat16", "bfloat16", "auto", "auto"),
        ("bfloat16-kv8", "bfloat16", "auto", "int8"),
        ("q4-int8", "q4", "int8", "auto"),
        ("q4-kv8", "q4", "auto", "int8"),
        ("q4-int8-kv8", "q4", "int8", "int8"),
        ("q8-bf16", "q8", "bfloat16", "auto"),
    ],
)
def test_a_precision_of_this_server_names_its_dtype_activations_and_kv_cache(
    precision: str, dtype: str, activation_dtype: str, kv_cache_dtype: str
) -> None:
    config = config_of(CANDIDATES[f"{OURS}:{precision}"])
    assert config.dtype == dtype
    assert config.activation_dtype == activation_dtype
    assert config.kv_cache_dtype == kv_cache_dtype


def test_no_two_candidates_of_this_server_are_the_same() -> None:
    configs = {repr(config_of(candidate)) for candidate in our_candidates()}
    assert len(configs) == len(our_candidates()) > 4


@pytest.mark.parametrize("name", CANDIDATES)
def test_what_the_benchmark_inherits_changes_no_precision(name: str) -> None:
    inherited = {"REALTIME_SERVE_DTYPE": "float32", "REALTIME_SERVE_KV_CACHE_DTYPE": "float32"}
    assert config_of(CANDIDATES[name], inherited) == config_of(CANDIDATES[name])
