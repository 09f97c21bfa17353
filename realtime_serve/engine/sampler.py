"""From logits to tokens, in torch: what `native_sampler` does in C, for logits on a GPU.

Exact filters, and random numbers that depend on the request only.

Greedy rows take the likeliest token, the first one on a tie. Sampled rows draw from

    softmax(logits / temperature) ─▶ top_k ─▶ top_p ─▶ min_p ─▶ inverse of the CDF

where the CDF runs in vocabulary order. Probabilities are kept as weights relative to the
likeliest token, whose weight is 1; no filter needs their sum to be 1.

top_k and top_p keep the heaviest tokens until their number, or their mass, reaches a limit;
tokens of equal weight stand in vocabulary order. Mostly the cut is among a few hundred
tokens. Where it is not, nothing is sorted either: the bits of non-negative floats order like
the floats, so two histograms, over the upper and then the lower half of the bits, give the
cut exactly. That costs the same for every distribution, while a sort, or candidates above a
falling threshold, cost most for a flat one.

The random number of a token is a hash of the request's seed and the token's index in the
output. It is the same in whatever batch the row stands, and after a preemption. A GPU may add
masses in another order each time; they are float64, and move a border by about 1e-16.

Rows are handled together, and what Python knows goes there without waiting (`to_device`). The
host waits three times a step, and once for each filter: to know whether a cut is far down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from realtime_serve.engine.runner import SampledToken, SamplingRow
from realtime_serve.nn.transfer import to_device
from realtime_serve.types import SamplingParams

ROWS_AT_ONCE = 32
"""Bounds the scratch memory: about 40 bytes a logit, 160 MB with a vocabulary of 128k."""

CDF_BLOCK = 128
"""Weights summed at a time: near the square root of a vocabulary, and divides most."""

WEIGHT_ONE_BITS = 0x3F800000
"""The bits of 1.0 as float32: no weight has greater ones."""

LOWER_BITS = 15
NUM_BINS = 1 << LOWER_BITS
"""Half of the 30 bits of a weight: the two histograms are equally long."""

NUM_HEAD = 256
"""Holds the cut of an ordinary row: a language model at temperature 1 and top_p 0.95."""

MIN_TEMPERATURE = torch.finfo(torch.float32).tiny
"""Lower ones would round to a zero divisor; here only the likeliest keep any weight."""

ALMOST_ONE = 1.0 - 2.0**-53
"""The largest float64 below 1: a positive mass times this is less than the mass."""

MASK_64 = 2**64 - 1


class Sampler:
    """Chooses tokens. Keeps nothing between calls."""

    def sample(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[SampledToken | None]:
        """Choose one token a row.

        Args:
            logits: float32, [len(rows), vocab_size]; overwritten where tokens are banned.
            rows: How to choose.

        Returns:
            A token for each row; None where the logits hold NaN or plus infinity, or where
            no token that may be chosen has a finite logit.
        """
        if not rows:
            return []
        with torch.inference_mode():
            normalizer = logits.logsumexp(-1)
            _ban(logits, rows)
            peaks, token_ids = logits.max(-1)
            is_usable = (normalizer.isfinite() & peaks.isfinite()).tolist()
            drawn = [i for i, row in enumerate(rows) if is_usable[i] and row.params.temperature > 0]
            for start in range(0, len(drawn), ROWS_AT_ONCE):
                part = drawn[start : start + ROWS_AT_ONCE]
                places = to_device(part, logits.device)
                token_ids[places] = _draw(logits[places], peaks[places], [rows[i] for i in part])
            logprobs = logits.gather(-1, token_ids[:, None])[:, 0] - normalizer
            chosen = zip(token_ids.tolist(), logprobs.tolist(), is_usable, strict=True)
        return [SampledToken(id_, logprob) if usable else None for id_, logprob, usable in chosen]


def uniform(seed: int, output_index: int) -> float:
    """The random number for one token, in [0, 1).

    SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014) as
    a hash: the output_index-th number of the generator whose state is the mixed seed. The
    seed is mixed first, so that seeds that differ by little give unrelated streams.

    Args:
        seed: Any integer; taken modulo 2**64.
        output_index: Which token of the output.

    Returns:
        A multiple of 2**-53.
    """
    return (splitmix64(splitmix64(seed, 0), output_index) >> 11) * 2.0**-53


def splitmix64(state: int, index: int) -> int:
    """The index-th output of SplitMix64 started at `state`, without those before it."""
    mixed = (state + (index + 1) * 0x9E3779B97F4A7C15) & MASK_64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK_64
    return mixed ^ (mixed >> 31)


def _ban(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    banned = [(i, token_id) for i, row in enumerate(rows) for token_id in row.banned_token_ids]
    if banned:
        row_ids, token_ids = zip(*banned, strict=True)
        logits[to_device(row_ids, logits.device), to_device(token_ids, logits.device)] = -torch.inf


def _draw(logits: Tensor, peaks: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Draw a token id for each row.

    Args:
        logits: float32, [num_rows, vocab_size]; overwritten.
        peaks: The largest logit of each row, finite.
        rows: How to draw; the temperatures are positive.

    Returns:
        int64, [num_rows].
    """
    params = [row.params for row in rows]
    temperatures = _column([max(p.temperature, MIN_TEMPERATURE) for p in params], logits.device)
    weights = logits.sub_(peaks[:, None]).div_(temperatures.float()).exp_()
    _keep_top_k(weights, params)
    _keep_top_p(weights, params)
    _keep_min_p(weights, params)
    uniforms = _column([uniform(row.seed, row.output_index) for row in rows], logits.device)
    return _invert_cdf(weights, uniforms)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return to_device(values, device, torch.float64)[:, None]


# --- filters: each sets the weights that it drops to zero ---------------------


def _keep_top_k(weights: Tensor, params: Sequence[SamplingParams]) -> None:
    vocab_size = weights.shape[-1]
    limits = {i: p.top_k for i, p in enumerate(params) if p.top_k and p.top_k < vocab_size}
    if limits:
        rows = to_device(list(limits), weights.device)
        counts = _column(list(limits.values()), weights.device)
        weights[rows] = _keep_heaviest(weights[rows], torch.ones_like, counts)


def _keep_top_p(weights: Tensor, params: Sequence[SamplingParams]) -> None:
    shares = {i: p.top_p for i, p in enumerate(params) if p.top_p < 1}
    if shares:
        rows = to_device(list(shares), weights.device)
        candidates = weights[rows]
        mass = candidates.sum(-1, keepdim=True, dtype=torch.float64)
        limits = _column(list(shares.values()), weights.device) * mass
        weights[rows] = _keep_heaviest(candidates, torch.clone, limits)


def _keep_min_p(weights: Tensor, params: Sequence[SamplingParams]) -> None:
    if any(p.min_p > 0 for p in params):
        weights.masked_fill_(weights < _column([p.min_p for p in params], weights.device), 0)


def _keep_heaviest(
    weights: Tensor, amount_of: Callable[[Tensor], Tensor], limits: Tensor
) -> Tensor:
    """Keep the heaviest tokens of each row until their amounts together reach a limit.

    Args:
        weights: float32 from 0 to 1, [num_rows, vocab_size]; overwritten.
        amount_of: What tokens of given weights count.
        limits: float64, [num_rows, 1], greater than 0.

    Returns:
        The weights, zero for tokens that are not kept.
    """
    cut, num_ties = _find_cut(weights, amount_of, limits)
    is_kept = (weights > cut) | _first_of(weights == cut, num_ties)
    return weights.masked_fill_(~is_kept, 0)


def _find_cut(
    weights: Tensor, amount_of: Callable[[Tensor], Tensor], limits: Tensor
) -> tuple[Tensor, Tensor]:
    """The least weight that is kept, and how many tokens of that weight are.

    The cut is among the heaviest few tokens if it is heavier than the last of them, which
    may have equals outside.
    """
    head = weights.topk(min(NUM_HEAD, weights.shape[-1])).values
    reached = amount_of(head).cumsum(-1, dtype=torch.float64)
    last = torch.searchsorted(reached, limits).clamp_(max=head.shape[-1] - 1)
    cut = head.gather(-1, last)
    num_ties = last + 1 - (head > cut).sum(-1, keepdim=True)
    is_outside = ((cut == head[:, -1:]) & (cut > 0))[:, 0]
    if is_outside.any():
        cut[is_outside], num_ties[is_outside] = _find_cut_by_bits(
            weights[is_outside], amount_of, limits[is_outside]
        )
    return cut, num_ties


def _find_cut_by_bits(
    weights: Tensor, amount_of: Callable[[Tensor], Tensor], limits: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, wherever it is: a radix selection in two rounds."""
    amounts = amount_of(weights).double()
    keys = WEIGHT_ONE_BITS - weights.view(torch.int32)  # the heaviest first
    upper, lower = keys >> LOWER_BITS, keys & (NUM_BINS - 1)
    cut_upper, limits = _cut_bin(upper, amounts, limits)
    cut_lower, limits = _cut_bin(lower, amounts * (upper == cut_upper), limits)
    cut_key = (cut_upper << LOWER_BITS) | cut_lower
    cut = (WEIGHT_ONE_BITS - cut_key).int().view(torch.float32)
    num_ties = torch.ceil(limits / amount_of(cut)).clamp(max=weights.shape[-1])
    return cut, num_ties.long()


def _cut_bin(keys: Tensor, amounts: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """The least key at which the amounts up to it reach the limit, and what it must add."""
    histogram = amounts.new_zeros(len(keys), NUM_BINS).scatter_add_(-1, keys.long(), amounts)
    reached = histogram.cumsum(-1)
    cut = torch.searchsorted(reached, limits).clamp_(max=NUM_BINS - 1)
    return cut, limits - functional.pad(reached, (1, 0)).gather(-1, cut)


def _first_of(mask: Tensor, counts: Tensor) -> Tensor:
    """Of the set places of each row, the first `counts`, [num_rows, 1]."""
    return mask & (mask.cumsum(-1) <= counts)


# --- the draw -----------------------------------------------------------------


def _invert_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first token of each row at which the mass exceeds uniform * mass of all.

    Finds the block, then the token in it: a running sum over the whole vocabulary gives
    the same and takes ten times as long.

    Args:
        weights: Not negative and not all zero, [num_rows, vocab_size].
        uniforms: From 0 to ALMOST_ONE, float64, [num_rows, 1].

    Returns:
        Token ids, int64, [num_rows]; none of weight zero.
    """
    num_rows, vocab_size = weights.shape
    padded = functional.pad(weights, (0, -vocab_size % CDF_BLOCK))
    blocks = padded.view(num_rows, -1, CDF_BLOCK)
    reached = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniforms * reached[:, -1:]
    block = torch.searchsorted(reached, target, right=True)
    target -= functional.pad(reached, (1, 0)).gather(-1, block)
    inside = blocks[torch.arange(num_rows, device=block.device), block[:, 0]]
    reached = inside.cumsum(-1, dtype=torch.float64)
    # The block was summed in another order; rounding must not lead past its last token.
    target = torch.minimum(target, reached[:, -1:] * ALMOST_ONE)
    position = torch.searchsorted(reached, target, right=True)
    return (block * CDF_BLOCK + position)[:, 0]
