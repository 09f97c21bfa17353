"""The sampler in C beside the one in torch: the same tokens, at every CPU level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from realtime_serve._kernels import cpu_levels, sample_rows
from realtime_serve.engine import native_sampler
from realtime_serve.engine.runner import SamplingRow
from realtime_serve.engine.sampler import Sampler, uniform
from realtime_serve.types import SamplingParams
from support.row_sampling import sample_row

INF = math.inf
LEVELS = cpu_levels()

ROUNDING = 1e-5
"""Of a mass: the two compute other exponentials, and add them up in other orders."""


def row(seed: int = 0, index: int = 0, banned: tuple[int, ...] = (), **params: Any) -> SamplingRow:
    return SamplingRow(SamplingParams(**params), seed, index, banned)


def native_id(logits: Tensor, row: SamplingRow, level: str = LEVELS[-1]) -> int | None:
    token = sample_row(logits, row, level)
    return None if token is None else token[0]


def like_a_language_model(vocab_size: int, seed: int) -> Tensor:
    """A few tokens above noise."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(vocab_size, generator=generator) * 2
    heads = torch.randperm(vocab_size, generator=generator)[:50]
    logits[heads] = 14 - 1.5 * torch.arange(1, len(heads) + 1).log()
    return logits


# --- the reference ------------------------------------------------------------


def relative_weights(logits: Tensor, temperature: float) -> NDArray[np.float64]:
    return torch.exp((logits.double() - logits.max().double()) / temperature).numpy()


def has_near_ties(logits: Tensor, temperature: float) -> bool:
    """Whether rounding could make different tokens tie, or change their order."""
    weights = relative_weights(logits.unique(), temperature)
    return bool((np.diff(weights) < ROUNDING * weights[:-1]).any())


def cumulative_masses(logits: Tensor, params: SamplingParams) -> tuple[NDArray[np.float64], bool]:
    """The CDF of what the filters leave, and whether rounding could not change what that is."""
    weights = relative_weights(logits, params.temperature)
    order = np.lexsort((np.arange(len(weights)), -weights))
    is_certain = not has_near_ties(logits, params.temperature)
    if params.top_k is not None:
        weights[order[params.top_k :]] = 0
    if params.top_p < 1:
        reached = np.cumsum(weights[order]) / weights.sum()
        is_certain &= bool((np.abs(reached - params.top_p) > ROUNDING).all())
        weights[order[int(np.argmax(reached >= params.top_p)) + 1 :]] = 0
    lighter = weights[weights < 1]
    is_certain &= bool((np.abs(lighter - params.min_p) >= ROUNDING * params.min_p).all())
    weights[weights < params.min_p] = 0
    return np.cumsum(weights) / weights.sum(), is_certain


def is_drawn(token_id: int, masses: NDArray[np.float64], random: float) -> bool:
    before = masses[token_id - 1] if token_id > 0 else 0.0
    is_possible = masses[token_id] > before
    return bool(is_possible and before - ROUNDING <= random <= masses[token_id] + ROUNDING)


# --- draws --------------------------------------------------------------------

FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10**6},
    {"top_p": 0.95},
    {"top_p": 0.5, "temperature": 2.0},
    {"min_p": 0.1},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.02, "temperature": 0.7},
]


@pytest.mark.parametrize("level", LEVELS)
def test_tokens_and_logprobs_are_those_of_the_torch_sampler(level: str) -> None:
    """Tokens differ only where the random number falls on a border between two."""
    logits = like_a_language_model(3001, seed=1)
    rows = [row(seed, seed % 5, **filters) for filters in FILTERS for seed in range(20)]
    expected = Sampler().sample(logits.repeat(len(rows), 1), rows)
    tokens = [sample_row(logits, row, level) for row in rows]
    num_equal = 0
    for token, other in zip(tokens, expected, strict=True):
        assert token is not None
        assert other is not None
        if token[0] == other.token_id:
            num_equal += 1
            assert token[1] == pytest.approx(other.logprob, abs=1e-5)
    assert num_equal >= len(rows) - 1


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(
        st.one_of(st.floats(-30, 30, width=32), st.sampled_from([-INF, 0.0, 0.0, 1.0])),
        min_size=1,
        max_size=400,
    ).filter(lambda values: max(values) > -INF),
    params=st.builds(
        SamplingParams,
        temperature=st.floats(2.0**-4, 2.0, width=32),
        top_k=st.none() | st.integers(1, 500),
        top_p=st.just(1.0) | st.floats(2.0**-10, 1 - 2.0**-10, width=32),
        min_p=st.just(0.0) | st.floats(2.0**-10, 1.0, width=32),
    ),
)
def test_draws_are_those_of_the_reference_for_any_logits(
    level: str, logits: list[float], params: SamplingParams
) -> None:
    tensor = torch.tensor(logits)
    masses, is_certain = cumulative_masses(tensor, params)
    for seed in range(8):
        token_id = native_id(tensor, SamplingRow(params, seed, 3), level)
        assert token_id is not None
        assert not is_certain or is_drawn(token_id, masses, uniform(seed, 3))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**6))
def test_random_numbers_are_those_of_the_torch_sampler(seed: int, index: int) -> None:
    """Of 1024 equal tokens, the first ten bits choose."""
    token_id = native_id(torch.zeros(1024), row(seed, index))
    assert token_id == int(uniform(seed, index) * 1024)


@pytest.mark.parametrize("level", LEVELS)
def test_of_tokens_that_tie_at_the_cut_the_first_in_the_vocabulary_stay(level: str) -> None:
    for seed in range(20):
        drawn = native_id(torch.zeros(20_000), row(seed, top_k=9_000), level)
        assert drawn == int(uniform(seed, 0) * 9_000)


# --- greedy, bans, masks ------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_greedy_takes_the_first_of_the_likeliest(level: str) -> None:
    logits = torch.zeros(700)
    logits[[17, 600]] = 5.0
    assert native_id(logits, row(temperature=0.0), level) == 17
    assert native_id(logits, row(temperature=0.0, banned=(17,)), level) == 600


@pytest.mark.parametrize("temperature", [1e-300, 1e-12])
def test_a_vanishing_temperature_is_greedy(temperature: float) -> None:
    logits = like_a_language_model(700, seed=2)
    drawn = {native_id(logits, row(seed, temperature=temperature)) for seed in range(20)}
    assert drawn == {int(logits.argmax())}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("filters", FILTERS)
def test_only_allowed_tokens_are_chosen_and_keep_their_logprob(
    level: str, filters: dict[str, Any]
) -> None:
    logits = like_a_language_model(100, seed=3)
    allowed = np.array([0x0F0F0F0F, 0, 0xFFFF0000, 0xFFFFFFF1], dtype=np.uint32)
    is_allowed = np.unpackbits(allowed.view(np.uint8), bitorder="little")[:100]
    for seed in range(20):
        token = sample_row(logits, row(seed, banned=(0, 96), **filters), level, allowed)
        assert token is not None
        assert is_allowed[token[0]]
        assert token[0] not in (0, 96)
        assert token[1] == pytest.approx(logits.log_softmax(-1)[token[0]].item(), abs=1e-5)


# --- rows together ------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_row_gets_the_same_token_alone_and_among_others(level: str) -> None:
    logits = torch.stack([like_a_language_model(700, seed) for seed in range(len(FILTERS))])
    logits[3, 5] = math.nan
    rows = [row(seed, 2, banned=(seed, 17), **each) for seed, each in enumerate(FILTERS)]
    allowed = np.random.default_rng(0).integers(0, 2**32, (len(rows), 22), dtype=np.uint32)
    tokens = sample_rows(logits.clone().numpy(), rows, level=level, allowed=allowed)
    alone = [
        sample_row(logits[i], rows[i], level=level, allowed=allowed[i]) for i in range(len(rows))
    ]
    assert tokens == alone
    assert [token is None for token in tokens] == [index == 3 for index in range(len(rows))]


def test_no_rows_get_no_tokens() -> None:
    assert sample_rows(np.empty((0, 9), np.float32), [], level=LEVELS[-1]) == []


def test_all_rows_of_a_step_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    num_rows = []

    def count(logits: Any, rows: Any, *, level: str) -> list[tuple[int, float] | None]:
        num_rows.append(len(logits))
        return sample_rows(logits, rows, level=level)

    monkeypatch.setattr(native_sampler, "sample_rows", count)
    logits = like_a_language_model(700, seed=1).repeat(20, 1)
    assert len(native_sampler.NativeSampler(LEVELS[-1]).sample(logits, [row()] * 20)) == 20
    assert num_rows == [20]


# --- failures -----------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "broken", [[math.nan, 0.0, 0.0], [0.0, INF, 0.0], [-INF, -INF, -INF], [math.nan] * 3]
)
def test_unusable_logits_give_nothing_even_where_they_are_banned(
    broken: list[float], temperature: float
) -> None:
    banned = tuple(i for i, logit in enumerate(broken) if not logit <= 0)
    params = row(temperature=temperature, banned=banned)
    tokens = [sample_row(torch.tensor(broken), params, level) for level in LEVELS]
    assert tokens == [None] * len(LEVELS)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_no_token_to_choose_from_gives_nothing(temperature: float) -> None:
    logits = torch.tensor([1.0, -INF, 2.0])
    assert sample_row(logits, row(banned=(0, 2), temperature=temperature)) is None
    nothing = np.array([0xFFFFFFF8], dtype=np.uint32)
    assert sample_row(logits, row(temperature=temperature), allowed=nothing) is None


def test_a_wrong_argument_is_refused_by_name() -> None:
    logits = torch.zeros(33)
    with pytest.raises(ValueError, match="level"):
        sample_row(logits, row(), "mmx")
    with pytest.raises(ValueError, match="logits"):
        sample_row(torch.empty(0), row())
    with pytest.raises(ValueError, match="Token 33"):
        sample_row(logits, row(banned=(33,)))
    with pytest.raises(ValueError, match="1 words of `allowed` are not 33 bits"):
        sample_row(logits, row(), allowed=np.zeros(1, dtype=np.uint32))
    with pytest.raises(ValueError, match="`allowed` has 1 rows, but 2 are"):
        sample_rows(
            torch.zeros(2, 33).numpy(),
            [row(), row()],
            level=LEVELS[-1],
            allowed=np.zeros((1, 2), dtype=np.uint32),
        )
    with pytest.raises(ValueError, match="logits have 2 rows, but 1 are"):
        sample_rows(torch.zeros(2, 33).numpy(), [row()], level=LEVELS[-1])
