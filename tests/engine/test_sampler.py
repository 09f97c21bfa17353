"""Sampling against an exact reference in numpy, and its independence of the batch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from realtime_serve.engine.runner import SampledToken, SamplingRow
from realtime_serve.engine.sampler import (
    ALMOST_ONE,
    NUM_HEAD,
    Sampler,
    _invert_cdf,
    splitmix64,
    uniform,
)
from realtime_serve.types import SamplingParams

INF = math.inf
NUM_DRAWS = 12


def row(seed: int = 0, index: int = 0, banned: tuple[int, ...] = (), **params: Any) -> SamplingRow:
    return SamplingRow(SamplingParams(**params), seed, index, banned)


def sample_ids(logits: Tensor, rows: list[SamplingRow]) -> list[int | None]:
    tokens = Sampler().sample(logits.clone(), rows)
    return [None if token is None else token.token_id for token in tokens]


# --- the reference ------------------------------------------------------------


def reference_weights(logits: Tensor, params: SamplingParams) -> NDArray[np.float64]:
    """What the filters leave, by a full sort; the exponential is torch's, to the last bit."""
    relative = (logits - logits.max()) / torch.tensor(params.temperature, dtype=torch.float32)
    weights = relative.exp().numpy().astype(np.float64)
    order = np.lexsort((np.arange(len(weights)), -weights))
    if params.top_k is not None:
        weights[order[params.top_k :]] = 0
    if params.top_p < 1:
        reached = np.cumsum(weights[order])
        num_kept = int(np.argmax(reached >= params.top_p * weights.sum())) + 1
        weights[order[num_kept:]] = 0
    weights[weights < params.min_p] = 0
    return weights


def reference_draw(weights: NDArray[np.float64], random: float) -> int:
    reached = np.cumsum(weights)
    return int(np.argmax(reached > random * reached[-1]))


def smooth(vocab_size: int, scale: float, seed: int) -> Tensor:
    return torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


def spike(vocab_size: int, height: float) -> Tensor:
    logits = torch.zeros(vocab_size)
    logits[vocab_size // 3] = height
    return logits


def mostly_impossible(vocab_size: int) -> Tensor:
    logits = torch.full((vocab_size,), -INF)
    logits[:: vocab_size // 3] = torch.arange(len(logits[:: vocab_size // 3])).float()
    return logits


SHAPES = {
    "one token": torch.zeros(1),
    "two tokens": torch.tensor([0.0, 1.0]),
    "small": smooth(50, 3.0, 1),
    "like a language model": smooth(3000, 4.0, 2),
    "nearly flat": smooth(3000, 1e-3, 3),
    "flat": torch.zeros(1000),
    "flat and small": torch.zeros(10),
    "coarse, so that many tie": smooth(3000, 1.0, 4).bfloat16().float(),
    "two levels": (torch.arange(2000) % 3 == 0).float(),
    "a spike": spike(1000, 30.0),
    "a spike on a plain": spike(1000, 3.0),
    "three possible": mostly_impossible(900),
    "weights that vanish": torch.linspace(0.0, -400.0, 700),
    "large": smooth(600, 1.0, 5) + 1e4,
}

FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": NUM_HEAD + 50},
    {"top_k": 10**6},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 1e-9},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.02, "temperature": 0.7},
    {"top_k": 700, "top_p": 0.8},
    {"top_p": 0.999, "min_p": 1e-3, "temperature": 1.5},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_equal_the_reference_for_every_shape_and_filter(shape: str) -> None:
    logits = SHAPES[shape]
    for filters in FILTERS:
        rows = [row(seed, seed % 5, **filters) for seed in range(NUM_DRAWS)]
        weights = reference_weights(logits, rows[0].params)
        expected = [reference_draw(weights, uniform(seed, seed % 5)) for seed in range(NUM_DRAWS)]
        assert sample_ids(logits.repeat(NUM_DRAWS, 1), rows) == expected, filters


@pytest.mark.parametrize(("num_kept", "num_draws"), [(1, 5), (3, 40), (NUM_HEAD + 44, 40)])
def test_of_tokens_that_tie_at_the_cut_the_first_in_the_vocabulary_stay(
    num_kept: int, num_draws: int
) -> None:
    rows = [row(seed, top_k=num_kept) for seed in range(num_draws)]
    drawn = sample_ids(torch.zeros(num_draws, 600), rows)
    expected = [int(uniform(seed, 0) * num_kept) for seed in range(num_draws)]
    assert drawn == expected


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(
        st.one_of(st.floats(-30, 30, width=32), st.sampled_from([-INF, 0.0, 0.0, 1.0])),
        min_size=1,
        max_size=400,
    ).filter(lambda values: max(values) > -INF),
    temperature=st.floats(0.05, 2.0),
    top_k=st.none() | st.integers(1, 500),
    top_p=st.just(1.0) | st.floats(1e-3, 0.999),
    min_p=st.just(0.0) | st.floats(1e-3, 1.0),
)
def test_draws_equal_the_reference_for_any_logits(
    logits: list[float], temperature: float, top_k: int | None, top_p: float, min_p: float
) -> None:
    tensor = torch.tensor(logits)
    filters: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
    }
    rows = [row(seed, **filters) for seed in range(8)]
    weights = reference_weights(tensor, rows[0].params)
    expected = [reference_draw(weights, uniform(seed, 0)) for seed in range(8)]
    assert sample_ids(tensor.repeat(8, 1), rows) == expected


@given(
    weights=st.lists(st.integers(0, 3), min_size=1, max_size=400).filter(any),
    random=st.sampled_from([0.0, 0.25, 0.5, 0.75, ALMOST_ONE]) | st.floats(0, ALMOST_ONE),
)
@example(weights=[1] * 256, random=0.5)  # the border between two blocks
def test_the_cdf_is_inverted_exactly_and_no_token_without_weight_is_drawn(
    weights: list[int], random: float
) -> None:
    """Sums of small integers are exact, and so are the borders between tokens."""
    drawn = _invert_cdf(
        torch.tensor([weights], dtype=torch.float32), torch.tensor([[random]], dtype=torch.float64)
    )
    target = random * sum(weights)
    expected = next(i for i, sum_ in enumerate(itertools.accumulate(weights)) if sum_ > target)
    assert drawn.tolist() == [expected]
    assert weights[expected] > 0


def test_rounding_leads_neither_past_the_last_token_nor_to_one_without_weight() -> None:
    """Weights of very different size, so that each order of summing gives another sum."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.exp(-40 * torch.rand(2000, 200, generator=generator))
    weights[:, ::3] = 0
    almost_one = torch.full((len(weights), 1), ALMOST_ONE, dtype=torch.float64)
    drawn = _invert_cdf(weights, almost_one)
    assert drawn.max() < weights.shape[1]
    assert (weights.gather(1, drawn[:, None]) > 0).all()


# --- greedy, bans, failures ---------------------------------------------------


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    logits = torch.zeros(2, 300)
    logits[0, [17, 200]] = 5.0
    assert sample_ids(logits, [row(temperature=0.0), row(temperature=0.0)]) == [17, 0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-12, 1e-4])
def test_a_vanishing_temperature_is_greedy(temperature: float) -> None:
    logits = smooth(300, 1.0, 0)
    rows = [row(seed, temperature=temperature) for seed in range(20)]
    assert set(sample_ids(logits.repeat(20, 1), rows)) == {int(logits.argmax())}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banned_tokens_are_not_chosen(temperature: float) -> None:
    logits = torch.tensor([0.0, 9.0, 8.0, 0.0]).repeat(50, 1)
    rows = [row(seed, banned=(1, 2), temperature=temperature) for seed in range(50)]
    rows[0] = row(temperature=0.0)
    first, *others = sample_ids(logits, rows)
    assert first == 1, "a ban holds for its own row only"
    assert set(others) <= {0, 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "broken", [[math.nan, 0.0, 0.0], [0.0, INF, 0.0], [-INF, -INF, -INF], [math.nan] * 3]
)
def test_a_row_without_usable_logits_fails_alone(broken: list[float], temperature: float) -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0], broken, [9.0, 5.0, 2.0]])
    rows = [row(temperature=0.0), row(temperature=temperature), row(temperature=0.0)]
    assert sample_ids(logits, rows) == [1, None, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_whose_only_possible_tokens_are_banned_fails(temperature: float) -> None:
    logits = torch.tensor([[1.0, -INF, 2.0]])
    assert sample_ids(logits, [row(banned=(0, 2), temperature=temperature)]) == [None]


def test_a_ban_does_not_hide_that_the_logits_are_broken() -> None:
    logits = torch.tensor([[1.0, math.nan, 2.0]])
    assert sample_ids(logits, [row(banned=(1,), temperature=0.0)]) == [None]


def test_no_rows_give_no_tokens() -> None:
    assert Sampler().sample(torch.empty(0, 10), []) == []


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 0.5, "top_k": 3}])
def test_the_logprob_is_the_models_own(params: dict[str, Any]) -> None:
    logits = smooth(300, 2.0, 0)
    (token,) = Sampler().sample(logits[None].clone(), [row(banned=(4,), **params)])
    assert isinstance(token, SampledToken)
    assert token.logprob == pytest.approx(logits.log_softmax(-1)[token.token_id].item(), abs=1e-5)


# --- random numbers -----------------------------------------------------------


def test_a_draw_does_not_depend_on_the_batch_around_it() -> None:
    shapes = [logits for logits in SHAPES.values() if len(logits) == 3000]
    rows = [row(7 * i, i, **FILTERS[i % len(FILTERS)]) for i in range(3 * len(FILTERS))]
    logits = torch.stack([shapes[i % len(shapes)] for i in range(len(rows))])
    alone = [sample_ids(logits[i : i + 1], [rows[i]])[0] for i in range(len(rows))]
    assert sample_ids(logits, rows) == alone
    backwards = list(range(len(rows)))[::-1]
    assert sample_ids(logits[backwards], [rows[i] for i in backwards]) == alone[::-1]


def test_the_generator_is_splitmix64() -> None:
    """The published first outputs for the state 1234567."""
    assert [splitmix64(1234567, index) for index in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 10**6))
def test_random_numbers_are_in_the_unit_interval_and_repeat(seed: int, index: int) -> None:
    assert 0.0 <= uniform(seed, index) <= ALMOST_ONE
    assert uniform(seed, index) == uniform(seed, index)


def test_neighbouring_seeds_and_places_share_no_random_number() -> None:
    numbers = [uniform(seed, index) for seed in range(-50, 50) for index in range(50)]
    assert len(set(numbers)) == len(numbers)
    assert abs(sum(numbers) / len(numbers) - 0.5) < 0.02
