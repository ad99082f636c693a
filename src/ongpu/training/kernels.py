"""The Triton kernels of the fast path: what a step does between its matrix products, each in one pass over memory.

Every function here takes CUDA tensors of shape (tokens, width), bfloat16 unless said otherwise, computes in float32
and stores what it returns in the type of its input. Sums over tokens are made in a fixed order, so a run repeats
itself. ``fused.py`` puts the functions together and gives them gradients; ``binaries.py`` has them compiled.
"""

# Triton reads the source of kernels: their parameters are pointers and sizes, and its language is not typed.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator, index"

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from ongpu.training.binaries import kernel, programs

if TYPE_CHECKING:
    import triton.language as tl

_TILE: Final = 64
"""Tokens of a tile of those kernels that walk down columns."""
_TURN_TILE: Final = 32


def _next_power(width: int) -> int:
    return 1 << (width - 1).bit_length()


def _warps(block: int) -> int:
    return min(16, max(1, block // 512))


@kernel
def _add_norm_kernel(
    x, delta, bias, weight, shift, total, out, mean, scale, width, epsilon,
    HAS_DELTA: tl.constexpr, HAS_BIAS: tl.constexpr, CENTERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = row.to(tl.int64) * width + column
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_DELTA:
        value += tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            value += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + at, rounded, mask=inside)
        value = rounded.to(tl.float32)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if CENTERED:
        middle = tl.sum(value, 0) / width
        tl.store(mean + row, middle)
        value = tl.where(inside, value - middle, 0.0)
    factor = tl.rsqrt(tl.sum(value * value, 0) / width + epsilon)
    tl.store(scale + row, factor)
    result = value * factor * gain
    if CENTERED:
        result += tl.load(shift + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


def add_norm(
    x: Any, delta: Any | None, bias: Any | None, weight: Any, shift: Any | None, *, epsilon: float
) -> tuple[Any, Any, Any, Any]:
    """``total = x + delta + bias`` and its norm: a layer norm where there is a ``shift``, else root-mean-square.

    Returns total (``x`` itself without a ``delta``), the normalized tensor, and what the backward pass needs: mean
    and 1 / deviation of each token, float32.
    """
    tokens, width = x.shape
    total = x if delta is None else torch.empty_like(x)
    out = torch.empty_like(x)
    mean = torch.empty(tokens if shift is not None else 0, dtype=torch.float32, device=x.device)
    scale = torch.empty(tokens, dtype=torch.float32, device=x.device)
    block = _next_power(width)
    _add_norm_kernel[(tokens,)](
        x, delta, bias, weight, shift, total, out, mean, scale, width, epsilon,
        HAS_DELTA=delta is not None, HAS_BIAS=bias is not None, CENTERED=shift is not None, BLOCK=block,
        num_warps=_warps(block),
    )  # fmt: skip
    return total, out, mean, scale


@kernel
def _add_norm_backward_kernel(
    total, weight, mean, scale, slope, slope_total, result, sums, tokens, width,
    HAS_SLOPE_TOTAL: tl.constexpr, HAS_BIAS: tl.constexpr, CENTERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    to_weight = tl.zeros([BLOCK], dtype=tl.float32)
    to_shift = tl.zeros([BLOCK], dtype=tl.float32)
    to_bias = tl.zeros([BLOCK], dtype=tl.float32)
    for row in range(program, tokens, programs):
        at = (tl.zeros([BLOCK], dtype=tl.int64) + row) * width + column
        value = tl.load(total + at, mask=inside, other=0.0).to(tl.float32)
        incoming = tl.load(slope + at, mask=inside, other=0.0).to(tl.float32)
        factor = tl.load(scale + row)
        if CENTERED:
            value = value - tl.load(mean + row)
        value = tl.where(inside, value * factor, 0.0)
        to_weight += incoming * value
        weighted = incoming * gain
        change = weighted - value * (tl.sum(value * weighted, 0) / width)
        if CENTERED:
            to_shift += incoming
            change -= tl.sum(weighted, 0) / width
        change = change * factor
        if HAS_SLOPE_TOTAL:
            change += tl.load(slope_total + at, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            to_bias += change
        tl.store(result + at, change.to(result.dtype.element_ty), mask=inside)
    here = sums + program * 3 * width + column
    tl.store(here, to_weight, mask=inside)
    if CENTERED:
        tl.store(here + width, to_shift, mask=inside)
    if HAS_BIAS:
        tl.store(here + 2 * width, to_bias, mask=inside)


def add_norm_backward(
    total: Any, weight: Any, mean: Any, scale: Any, slope: Any, slope_total: Any | None, *, has_bias: bool
) -> tuple[Any, Any, Any, Any]:
    """From the slopes of :func:`add_norm`'s two outputs to those of x (and delta), weight, shift and bias.

    The last two mean nothing where there was no shift or no bias.
    """
    tokens, width = total.shape
    result = torch.empty_like(total)
    block = _next_power(width)
    programs = min(1056 if block <= 1024 else 528, -(-tokens // 4))  # measured on one H100, as are the warps
    sums = torch.empty(programs, 3 * width, dtype=torch.float32, device=total.device)
    _add_norm_backward_kernel[(programs,)](
        total, weight, mean, scale, slope, slope_total, result, sums, tokens, width,
        HAS_SLOPE_TOTAL=slope_total is not None, HAS_BIAS=has_bias, CENTERED=mean.numel() > 0, BLOCK=block,
        num_warps=1 if block <= 1024 else _warps(block),
    )  # fmt: skip
    to_weight, to_shift, to_bias = _add_up(sums, weight.dtype).view(3, width)
    return result, to_weight, to_shift, to_bias


@kernel
def _add_up_kernel(parts, out, count, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for first in range(0, count, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < count)[:, None] & inside[None, :]
        total += tl.load(parts + row[:, None] * width + column[None, :], mask=mask, other=0.0)
    tl.store(out + column, tl.sum(total, 0).to(out.dtype.element_ty), mask=inside)


def _add_up(parts: Any, kind: torch.dtype) -> Any:
    """The sum of float32 ``parts`` over their first dimension, as ``kind``."""
    count, width = parts.shape
    out = torch.empty(width, dtype=kind, device=parts.device)
    _add_up_kernel[(programs(width, 32),)](parts, out, count, width, ROWS=256, COLUMNS=32, num_warps=8)
    return out


@kernel
def _gelu_kernel(product, bias, out, width, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    value = tl.load(product + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + at % width, mask=inside, other=0.0).to(tl.float32)
    # 0.5 (1 + tanh u) is sigmoid(2 u)
    twice = 1.5957691216057308 * value * (1.0 + 0.044715 * value * value)
    tl.store(out + at, (value * tl.sigmoid(twice)).to(out.dtype.element_ty), mask=inside)


def bias_gelu(product: Any, bias: Any) -> Any:
    """GELU in its tanh form, of ``product + bias``."""
    out = torch.empty_like(product)
    size = product.numel()
    _gelu_kernel[(programs(size, 2048),)](product, bias, out, product.shape[1], size, BLOCK=2048, num_warps=8)
    return out


@kernel
def _gelu_backward_kernel(
    product, bias, slope, result, sums, tokens, width, per_program, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    group = tl.program_id(1)
    inside = column < width
    added = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    for step in tl.range(0, per_program, ROWS, num_stages=AHEAD):
        row = group * per_program + step + tl.arange(0, ROWS)
        mask = (row < tokens)[:, None] & inside[None, :]
        at = row.to(tl.int64)[:, None] * width + column[None, :]
        value = tl.load(product + at, mask=mask, other=0.0).to(tl.float32) + added[None, :]
        square = value * value
        half = tl.sigmoid(1.5957691216057308 * value * (1.0 + 0.044715 * square))
        inner = 1.5957691216057308 * (1.0 + 0.134145 * square)
        change = tl.load(slope + at, mask=mask, other=0.0).to(tl.float32) * (half + value * half * (1.0 - half) * inner)
        tl.store(result + at, change.to(result.dtype.element_ty), mask=mask)
        total += tl.sum(change, 0)
    tl.store(sums + group * width + column, total, mask=inside)


def bias_gelu_backward(product: Any, bias: Any, slope: Any) -> tuple[Any, Any]:
    """The slopes of :func:`bias_gelu`'s product and bias."""
    tokens, width = product.shape
    groups, per_program = _groups(tokens)
    result = torch.empty_like(product)
    sums = torch.empty(groups, width, dtype=torch.float32, device=product.device)
    _gelu_backward_kernel[(programs(width, 128), groups)](
        product, bias, slope, result, sums, tokens, width, per_program, ROWS=_TILE, COLUMNS=128, AHEAD=3, num_warps=4
    )
    return result, _add_up(sums, bias.dtype)


@kernel
def _column_sum_kernel(
    x, sums, tokens, width, per_program, ROWS: tl.constexpr, COLUMNS: tl.constexpr, AHEAD: tl.constexpr
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    group = tl.program_id(1)
    inside = column < width
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for step in tl.range(0, per_program, ROWS, num_stages=AHEAD):
        row = group * per_program + step + tl.arange(0, ROWS)
        mask = (row < tokens)[:, None] & inside[None, :]
        total += tl.load(x + row.to(tl.int64)[:, None] * width + column[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(sums + group * width + column, tl.sum(total, 0), mask=inside)


def column_sum(x: Any) -> Any:
    """The sum over the tokens, (width)."""
    tokens, width = x.shape
    groups, per_program = _groups(tokens)
    sums = torch.empty(groups, width, dtype=torch.float32, device=x.device)
    _column_sum_kernel[(programs(width, 128), groups)](
        x, sums, tokens, width, per_program, ROWS=_TILE, COLUMNS=128, AHEAD=3, num_warps=4
    )
    return _add_up(sums, x.dtype)


def _groups(tokens: int) -> tuple[int, int]:
    """How many programs share the tokens of a column, and how many tokens each takes."""
    per_program = _TILE * max(1, tokens // (_TILE * 128))
    return -(-tokens // per_program), per_program


@kernel
def _gate_kernel(both, out, width, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    row = at // width
    gate = tl.load(both + at + row * width, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(both + at + row * width + width, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (gate * tl.sigmoid(gate) * value).to(out.dtype.element_ty), mask=inside)


def gated(both: Any) -> Any:
    """``silu(gate) * value``; ``both`` is (tokens, 2 * width), gates first."""
    tokens, width = both.shape[0], both.shape[1] // 2
    out = both.new_empty(tokens, width)
    size = tokens * width
    _gate_kernel[(programs(size, 2048),)](both, out, width, size, BLOCK=2048, num_warps=8)
    return out


@kernel
def _gate_backward_kernel(both, slope, result, width, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    first = at + (at // width) * width
    gate = tl.load(both + first, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(both + first + width, mask=inside, other=0.0).to(tl.float32)
    incoming = tl.load(slope + at, mask=inside, other=0.0).to(tl.float32)
    half = tl.sigmoid(gate)
    to_gate = incoming * value * half * (1.0 + gate * (1.0 - half))
    tl.store(result + first, to_gate.to(result.dtype.element_ty), mask=inside)
    tl.store(result + first + width, (incoming * gate * half).to(result.dtype.element_ty), mask=inside)


def gated_backward(both: Any, slope: Any) -> Any:
    """The slope of :func:`gated`'s input."""
    result = torch.empty_like(both)
    size = slope.numel()
    _gate_backward_kernel[(programs(size, 2048),)](both, slope, result, slope.shape[1], size, BLOCK=2048, num_warps=8)
    return result


@kernel
def _turn_kernel(packed, cosine, sine, tokens, row_width, BACK: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1)
    lane = tl.arange(0, HALF)
    mask = (row < tokens)[:, None] & (lane < HALF)[None, :]
    at = row.to(tl.int64)[:, None] * row_width + head * 2 * HALF + lane[None, :]
    turn = row[:, None] * HALF + lane[None, :]
    cos, sin = tl.load(cosine + turn, mask=mask, other=0.0), tl.load(sine + turn, mask=mask, other=0.0)
    if BACK:
        sin = -sin
    first = tl.load(packed + at, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(packed + at + HALF, mask=mask, other=0.0).to(tl.float32)
    tl.store(packed + at, (first * cos - second * sin).to(packed.dtype.element_ty), mask=mask)
    tl.store(packed + at + HALF, (second * cos + first * sin).to(packed.dtype.element_ty), mask=mask)


def turn_(packed: Any, turns: tuple[Any, Any], *, heads: int, back: bool = False) -> None:
    """Rotate the first ``heads`` heads of each token in place, or ``back``.

    ``turns`` are cosine and sine, each (tokens, head width / 2).
    """
    cosine, sine = turns
    tokens, row_width = packed.shape
    _turn_kernel[(programs(tokens, _TURN_TILE), heads)](
        packed, cosine, sine, tokens, row_width, BACK=back, HALF=cosine.shape[1], ROWS=_TURN_TILE, num_warps=4
    )


@kernel
def _cross_entropy_kernel(logits, labels, losses, width, ignored, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    here = logits + row.to(tl.int64) * width
    wanted = tl.load(labels + row)
    lane = tl.arange(0, BLOCK)
    if wanted == ignored:
        tl.store(losses + row, 0.0)
        for first in range(0, width, BLOCK):
            column = first + lane
            tl.store(here + column, tl.zeros([BLOCK], dtype=logits.dtype.element_ty), mask=column < width)
    else:
        most = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
        total = tl.zeros([BLOCK], dtype=tl.float32)
        for first in range(0, width, BLOCK):
            column = first + lane
            value = tl.load(here + column, mask=column < width, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(most, value)
            # a lane that has seen nothing yet has -inf twice, whose difference is not a number
            grown = tl.where(most == float("-inf"), 0.0, total * tl.exp(most - higher))
            total = grown + tl.where(value == float("-inf"), 0.0, tl.exp(value - higher))
            most = higher
        top = tl.max(most, 0)
        norm = tl.sum(tl.where(most == float("-inf"), 0.0, total * tl.exp(most - top)), 0)
        at_label = tl.load(here + wanted).to(tl.float32)
        tl.store(losses + row, tl.log(norm) + top - at_label)
        tl.debug_barrier()  # the logit of the label is read before its place is written
        for first in range(0, width, BLOCK):
            column = first + lane
            value = tl.load(here + column, mask=column < width, other=float("-inf")).to(tl.float32)
            slope = tl.exp(value - top) / norm - tl.where(column == wanted, 1.0, 0.0)
            tl.store(here + column, slope.to(logits.dtype.element_ty), mask=column < width)


def cross_entropy_(logits: Any, labels: Any, *, ignored: int) -> Any:
    """The loss of each row in nats, float32; the logits are replaced by its slope. ``ignored`` labels give zeros."""
    rows, width = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    _cross_entropy_kernel[(rows,)](
        logits, labels, losses, width, ignored, BLOCK=min(8192, _next_power(width)), num_warps=32
    )
    return losses


@kernel
def _scale_kernel(x, factor, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < size).to(tl.float32) * tl.load(factor)
    tl.store(x + at, value.to(x.dtype.element_ty), mask=at < size)


def scale_(x: Any, factor: Any) -> None:
    """Multiply by a float32 number that is on the device; torch would round it to the type of ``x`` first."""
    _scale_kernel[(programs(x.numel(), 2048),)](x, factor, x.numel(), BLOCK=2048, num_warps=8)
