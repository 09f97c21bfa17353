"""Attention of flat rows over a paged KV cache.

The spans of a step are sorted into tiles once; every layer then runs each tile with one
gather and one attention call. All decode rows whose contexts are of similar length are
one tile, a chunk of a prompt is another. The blocks of a tile's sequences are gathered
side by side, padded to the longest, and a mask hides the padding and the future.

Query heads that share a key head are laid out so that the attention call sees heads of
equal number: those of torch that take both a mask and groups are slow on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own custom
from torch import Tensor

from realtime_serve.nn.interface import ForwardBatch, Span
from realtime_serve.nn.transfer import to_device

MAX_CHUNK_ROWS = 256
"""Longer chunks are cut: it bounds the mask, and early rows skip the later blocks."""

SHORT_TABLE = 16
"""Up to this many blocks (256 tokens), padding is cheaper than one more tile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadShape:
    """The heads of an attention layer; num_kv_heads divides num_heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


class AttentionPlan:
    """The tiles of one step, made once for all its layers.

    Args:
        batch: The step.
        heads: The network's heads.
        block_size: Tokens in a block of the KV cache.
        dtype: Of queries, keys and values.
    """

    def __init__(
        self, batch: ForwardBatch, heads: HeadShape, block_size: int, dtype: torch.dtype
    ) -> None:
        decode = [span for span in batch.spans if span.num_rows == 1]
        chunks = [span for span in batch.spans if span.num_rows > 1]
        self._tiles: list[_Tile] = [
            _DecodeTile(spans, batch.positions, heads, block_size, dtype)
            for spans in group_by_length(decode, block_size)
        ]
        self._tiles += [
            _ChunkTile(piece, batch.positions, heads, block_size, dtype)
            for span in chunks
            for piece in cut_into_pieces(span, MAX_CHUNK_ROWS)
        ]

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Attention of all rows in one layer.

        Args:
            queries: [num_rows, num_heads * head_dim]; may be a view.
            kv: The layer's KV cache, with this step's keys and values in it.

        Returns:
            [num_rows, num_heads * head_dim].
        """
        if len(self._tiles) == 1:  # then its rows are all rows, in order
            return self._tiles[0].attend(queries, kv)
        output = queries.new_empty(queries.shape)
        for tile in self._tiles:
            output.index_copy_(0, tile.rows, tile.attend(queries.index_select(0, tile.rows), kv))
        return output


def group_by_length(spans: Sequence[Span], block_size: int) -> list[list[Span]]:
    """Sort decode spans into groups that share one padded gather.

    Within a group, no sequence has less than half the blocks of the longest, unless all
    are short; so what is gathered is at most twice what is needed.

    Args:
        spans: Any spans.
        block_size: Tokens a block.

    Returns:
        The groups; within each, the spans stand in row order.
    """
    groups: list[list[Span]] = []
    shortest_to_join = 0
    for span in sorted(spans, key=lambda span: span.kv_len, reverse=True):
        num_blocks = -(-span.kv_len // block_size)
        if not groups or num_blocks < shortest_to_join:
            groups.append([])
            shortest_to_join = num_blocks // 2 if num_blocks > SHORT_TABLE else 0
        groups[-1].append(span)
    return [sorted(group) for group in groups]


def cut_into_pieces(span: Span, max_rows: int) -> Iterator[Span]:
    """Cut a long span into spans of at most `max_rows` rows, each with the context it needs."""
    first_position = span.kv_len - span.num_rows
    for done in range(0, span.num_rows, max_rows):
        num_rows = min(max_rows, span.num_rows - done)
        yield Span(span.start + done, num_rows, first_position + done + num_rows, span.block_table)


class _Tile(Protocol):
    rows: Tensor

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor: ...


class _DecodeTile:
    """One row each of several sequences.

    The query heads that share a key head are handed over as that head's rows: the
    attention call then reads each key once, and needs no idea of groups.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        positions: Tensor,
        heads: HeadShape,
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        num_blocks = max(-(-span.kv_len // block_size) for span in spans)
        blocks = [block for span in spans for block in _padded(span.block_table, num_blocks)]
        kv_len = num_blocks * block_size
        self.rows = to_device([span.start for span in spans], positions.device)
        self._blocks = to_device(blocks, positions.device)
        self._mask = _causal_mask(positions[self.rows], kv_len, dtype)[:, None, None]
        groups = heads.num_heads // heads.num_kv_heads
        self._query_shape = (len(spans), heads.num_kv_heads, groups, heads.head_dim)
        self._kv_shape = (len(spans), kv_len, 2, heads.num_kv_heads, heads.head_dim)

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        gathered = kv.index_select(0, self._blocks).view(self._kv_shape)
        keys, values = gathered.permute(2, 0, 3, 1, 4)
        output = F.scaled_dot_product_attention(
            queries.view(self._query_shape), keys, values, attn_mask=self._mask
        )
        return output.reshape(queries.shape)


class _ChunkTile:
    """Several rows of one sequence.

    The key heads are handed over as a batch, and each as a view that is repeated for the query
    heads that share it.
    """

    def __init__(
        self,
        span: Span,
        positions: Tensor,
        heads: HeadShape,
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        num_blocks = -(-span.kv_len // block_size)
        kv_len = num_blocks * block_size
        end = span.start + span.num_rows
        self.rows = torch.arange(span.start, end, device=positions.device)
        self._blocks = to_device(span.block_table[:num_blocks], positions.device)
        self._mask = _causal_mask(positions[self.rows], kv_len, dtype)
        groups = heads.num_heads // heads.num_kv_heads
        self._query_shape = (span.num_rows, heads.num_kv_heads, groups, heads.head_dim)
        self._kv_shape = (kv_len, 2, heads.num_kv_heads, 1, heads.head_dim)

    def attend(self, queries: Tensor, kv: Tensor) -> Tensor:
        by_head = queries.view(self._query_shape).permute(1, 2, 0, 3)
        gathered = kv.index_select(0, self._blocks).view(self._kv_shape)
        keys, values = gathered.permute(1, 2, 3, 0, 4).expand(-1, -1, by_head.shape[1], -1, -1)
        output = F.scaled_dot_product_attention(by_head, keys, values, attn_mask=self._mask)
        return output.permute(2, 0, 1, 3).reshape(queries.shape)


def _padded(block_table: Sequence[int], num_blocks: int) -> list[int]:
    """The first blocks of a table; its last one, which the mask hides, stands in for more."""
    table = list(block_table[:num_blocks])
    return table + table[-1:] * (num_blocks - len(table))


def _causal_mask(positions: Tensor, kv_len: int, dtype: torch.dtype) -> Tensor:
    """0 where a row may look, minus infinity where it may not: [num_rows, kv_len]."""
    hidden = torch.arange(kv_len, device=positions.device) > positions[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(
        hidden, float("-inf")
    )
