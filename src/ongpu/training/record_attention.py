"""Causal attention within records, for rows of many short ones: forward and backward in Triton.

FlashAttention's backward pass is made for long sequences: it adds up the slopes of queries in float32 by atomic
additions, converts them in a further pass, and expands shared keys. With records of a hundred tokens that is most of
its time. Here a program holds a tile of queries (or of keys), walks over the record, and writes its slopes once, in
the place where the projection's backward pass reads them. The arithmetic is that of Dao (2023), in float32 with
bfloat16 products.

``packed`` is (tokens, (heads + 2 * keys) * head width) with queries, keys and values side by side. ``boundaries`` are
the first tokens of the records and the end, int32; empty records are allowed.
"""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator, index"

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import torch

from ongpu.training.binaries import kernel

if TYPE_CHECKING:
    import triton.language as tl

LONGEST: Final = 256
"""Tokens of the longest record that comes here. With records of up to 196 this was 1.7 to 1.9 times as fast on one H100
(2026-11-22); longer ones were not timed and go to FlashAttention."""
_TILE: Final = 64
_LOG2_E: Final = 1.4426950408889634


@kernel
def _forward_kernel(
    packed, boundaries, out, log_sums, tokens, scale, HEADS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    record, tile, head = tl.program_id(0) // TILES, tl.program_id(0) % TILES, tl.program_id(1)
    start = tl.load(boundaries + record)
    length = tl.load(boundaries + record + 1) - start
    if tile * TILE < length:
        row_width: tl.constexpr = (HEADS + 2 * KEYS) * WIDTH
        lane = tl.arange(0, WIDTH)
        key_head = HEADS + head // (HEADS // KEYS)
        row = tile * TILE + tl.arange(0, TILE)
        here = packed + start.to(tl.int64) * row_width + lane[None, :]
        query = tl.load(here + row[:, None] * row_width + head * WIDTH, mask=(row < length)[:, None], other=0.0)
        most = tl.full([TILE], float("-inf"), dtype=tl.float32)
        total = tl.zeros([TILE], dtype=tl.float32)
        mixed = tl.zeros([TILE, WIDTH], dtype=tl.float32)
        for first in range(0, (tile + 1) * TILE, TILE):
            column = first + tl.arange(0, TILE)
            inside = (column < length)[:, None]
            key = tl.load(here + column[:, None] * row_width + key_head * WIDTH, mask=inside, other=0.0)
            value = tl.load(here + column[:, None] * row_width + (key_head + KEYS) * WIDTH, mask=inside, other=0.0)
            score = tl.dot(query, tl.trans(key)) * scale
            score = tl.where((column[None, :] <= row[:, None]) & (column < length)[None, :], score, float("-inf"))
            higher = tl.maximum(most, tl.max(score, 1))
            share = tl.exp2(score - higher[:, None])
            shrink = tl.exp2(most - higher)
            total = total * shrink + tl.sum(share, 1)
            mixed = mixed * shrink[:, None] + tl.dot(share.to(value.dtype), value)
            most = higher
        at = (start + row).to(tl.int64)
        mask = row < length
        tl.store(
            out + at[:, None] * (HEADS * WIDTH) + head * WIDTH + lane[None, :],
            (mixed / total[:, None]).to(out.dtype.element_ty),
            mask=mask[:, None],
        )
        tl.store(log_sums + head * tokens + at, most + tl.log2(total), mask=mask)


@kernel
def _query_kernel(
    packed, boundaries, out, log_sums, slope, result, means, tokens, scale, factor, HEADS: tl.constexpr,
    KEYS: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    record, tile, head = tl.program_id(0) // TILES, tl.program_id(0) % TILES, tl.program_id(1)
    start = tl.load(boundaries + record)
    length = tl.load(boundaries + record + 1) - start
    if tile * TILE < length:
        row_width: tl.constexpr = (HEADS + 2 * KEYS) * WIDTH
        lane = tl.arange(0, WIDTH)
        key_head = HEADS + head // (HEADS // KEYS)
        row = tile * TILE + tl.arange(0, TILE)
        mask = row < length
        at = (start + row).to(tl.int64)
        here = packed + start.to(tl.int64) * row_width + lane[None, :]
        there = at[:, None] * (HEADS * WIDTH) + head * WIDTH + lane[None, :]
        query = tl.load(here + row[:, None] * row_width + head * WIDTH, mask=mask[:, None], other=0.0)
        incoming = tl.load(slope + there, mask=mask[:, None], other=0.0)
        mean = tl.sum(tl.load(out + there, mask=mask[:, None], other=0.0).to(tl.float32) * incoming, 1)
        tl.store(means + head * tokens + at, mean, mask=mask)
        log_sum = tl.load(log_sums + head * tokens + at, mask=mask, other=0.0)
        change = tl.zeros([TILE, WIDTH], dtype=tl.float32)
        for first in range(0, (tile + 1) * TILE, TILE):
            column = first + tl.arange(0, TILE)
            inside = (column < length)[:, None]
            key = tl.load(here + column[:, None] * row_width + key_head * WIDTH, mask=inside, other=0.0)
            value = tl.load(here + column[:, None] * row_width + (key_head + KEYS) * WIDTH, mask=inside, other=0.0)
            score = tl.dot(query, tl.trans(key)) * scale
            seen = (column[None, :] <= row[:, None]) & mask[:, None]
            share = tl.where(seen, tl.exp2(score - log_sum[:, None]), 0.0)
            inner = share * (tl.dot(incoming, tl.trans(value)) - mean[:, None])
            change += tl.dot(inner.to(key.dtype), key)
        tl.store(
            result + at[:, None] * row_width + head * WIDTH + lane[None, :],
            (change * factor).to(result.dtype.element_ty),
            mask=mask[:, None],
        )


@kernel
def _key_kernel(
    packed, boundaries, log_sums, means, slope, result, tokens, scale, factor, HEADS: tl.constexpr,
    KEYS: tl.constexpr, WIDTH: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    record, tile, group = tl.program_id(0) // TILES, tl.program_id(0) % TILES, tl.program_id(1)
    start = tl.load(boundaries + record)
    length = tl.load(boundaries + record + 1) - start
    if tile * TILE < length:
        row_width: tl.constexpr = (HEADS + 2 * KEYS) * WIDTH
        shared: tl.constexpr = HEADS // KEYS
        lane = tl.arange(0, WIDTH)
        column = tile * TILE + tl.arange(0, TILE)
        inside = (column < length)[:, None]
        here = packed + start.to(tl.int64) * row_width + lane[None, :]
        key = tl.load(here + column[:, None] * row_width + (HEADS + group) * WIDTH, mask=inside, other=0.0)
        value = tl.load(here + column[:, None] * row_width + (HEADS + KEYS + group) * WIDTH, mask=inside, other=0.0)
        to_key = tl.zeros([TILE, WIDTH], dtype=tl.float32)
        to_value = tl.zeros([TILE, WIDTH], dtype=tl.float32)
        for member in range(shared):
            head = group * shared + member
            for first in range(tile * TILE, length, TILE):
                row = first + tl.arange(0, TILE)
                mask = row < length
                at = (start + row).to(tl.int64)
                query = tl.load(here + row[:, None] * row_width + head * WIDTH, mask=mask[:, None], other=0.0)
                there = at[:, None] * (HEADS * WIDTH) + head * WIDTH + lane[None, :]
                incoming = tl.load(slope + there, mask=mask[:, None], other=0.0)
                log_sum = tl.load(log_sums + head * tokens + at, mask=mask, other=0.0)
                mean = tl.load(means + head * tokens + at, mask=mask, other=0.0)
                score = tl.dot(key, tl.trans(query)) * scale
                seen = (column[:, None] <= row[None, :]) & mask[None, :]
                share = tl.where(seen, tl.exp2(score - log_sum[None, :]), 0.0)
                to_value += tl.dot(share.to(incoming.dtype), incoming)
                inner = share * (tl.dot(value, tl.trans(incoming)) - mean[None, :])
                to_key += tl.dot(inner.to(query.dtype), query)
        to = result + (start + column).to(tl.int64)[:, None] * row_width + lane[None, :]
        tl.store(to + (HEADS + group) * WIDTH, (to_key * factor).to(result.dtype.element_ty), mask=inside)
        tl.store(to + (HEADS + KEYS + group) * WIDTH, to_value.to(result.dtype.element_ty), mask=inside)


def tiles(longest: int) -> int:
    """Tiles of the longest record, for which the kernels are compiled."""
    return -(-longest // _TILE)


def _sizes(heads: int, keys: int, width: int, longest: int) -> dict[str, int]:
    return {"HEADS": heads, "KEYS": keys, "WIDTH": width, "TILES": tiles(longest), "TILE": _TILE}


def forward(packed: Any, boundaries: Any, *, longest: int, heads: int, keys: int) -> tuple[Any, Any]:
    """The mixed values, (tokens, heads * head width), and for the backward pass the log2 of each token's sum."""
    tokens, width = packed.shape[0], packed.shape[1] // (heads + 2 * keys)
    out = packed.new_empty(tokens, heads * width)
    log_sums = torch.empty(heads, tokens, dtype=torch.float32, device=packed.device)
    sizes = _sizes(heads, keys, width, longest)
    grid = ((len(boundaries) - 1) * sizes["TILES"], heads)
    _forward_kernel[grid](packed, boundaries, out, log_sums, tokens, _LOG2_E * width**-0.5, **sizes, num_warps=4)
    return out, log_sums


def backward(packed: Any, boundaries: Any, out: Any, slope: Any, log_sums: Any, **records: int) -> Any:
    """The slope of ``packed``; ``records`` as for :func:`forward`."""
    result = torch.empty_like(packed)
    for part in backward_parts(packed, boundaries, out, slope, log_sums, result=result, **records):
        part()
    return result


def backward_parts(
    packed: Any,
    boundaries: Any,
    out: Any,
    slope: Any,
    log_sums: Any,
    *,
    longest: int,
    heads: int,
    keys: int,
    result: Any = None,
) -> tuple[Callable[[], object], Callable[[], object]]:
    """The backward pass' two kernels, to be called in this order; they write into ``result``."""
    tokens, width = packed.shape[0], packed.shape[1] // (heads + 2 * keys)
    result, means = torch.empty_like(packed) if result is None else result, torch.empty_like(log_sums)
    sizes = _sizes(heads, keys, width, longest)
    places, scale, factor = (len(boundaries) - 1) * sizes["TILES"], _LOG2_E * width**-0.5, width**-0.5
    return (
        lambda: _query_kernel[places, heads](
            packed,
            boundaries,
            out,
            log_sums,
            slope,
            result,
            means,
            tokens,
            scale,
            factor,
            **sizes,
            num_warps=4,
            num_stages=2,
        ),
        lambda: _key_kernel[places, keys](
            packed,
            boundaries,
            log_sums,
            means,
            slope,
            result,
            tokens,
            scale,
            factor,
            **sizes,
            num_warps=4,
            num_stages=1,
        ),
    )
