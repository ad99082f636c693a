"""The cast to float8 as two Triton kernels: the largest value of a tensor, then its 8 bits in both orders of memory."""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator, index"
# ruff: noqa: N803, PLR0917 - Triton writes what a kernel is compiled for in capitals, and takes all by position

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from ongpu.training.binaries import kernel, programs

if TYPE_CHECKING:
    import triton.language as tl

_PARTS: Final = 1024
"""Most programs that look for the largest value; each leaves one."""
_BLOCK: Final = 4096
_ROWS: Final = 128
_COLUMNS: Final = 128


@kernel
def _largest_kernel(x, parts, size, per_program, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    most = tl.zeros([BLOCK], dtype=tl.float32)
    for step in range(0, per_program, BLOCK):
        at = program.to(tl.int64) * per_program + step + tl.arange(0, BLOCK)
        most = tl.maximum(most, tl.abs(tl.load(x + at, mask=at < size, other=0.0).to(tl.float32)))
    tl.store(parts + program, tl.max(most, 0))


@kernel
def _cast_kernel(
    x, parts, count, same, turned, scale, rows, width, limit,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    part = tl.arange(0, PARTS)
    most = tl.max(tl.load(parts + part, mask=part < count, other=0.0), 0)
    unit = tl.maximum(most, 1e-30) / limit  # a tensor of zeros stays one; infinity becomes NaN, as NaN does
    factor = 1.0 / unit
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(scale, unit)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * factor
    small = value.to(same.dtype.element_ty)
    tl.store(same + at, small, mask=inside)
    there = column.to(tl.int64)[:, None] * rows + row[None, :]
    tl.store(turned + there, tl.trans(small), mask=(column < width)[:, None] & (row < rows)[None, :])


def cast(x: Any, kind: torch.dtype) -> tuple[Any, Any, Any]:
    """``x`` (rows, width) and its transpose, both contiguous, and the float32 number they are to be multiplied by.

    The largest value becomes the largest of ``kind``. Two launches, and no value is waited for.
    """
    rows, width = x.shape
    size = x.numel()
    per_program = programs(programs(size, _PARTS), _BLOCK) * _BLOCK
    count = programs(size, per_program)
    parts = torch.empty(count, dtype=torch.float32, device=x.device)
    _largest_kernel[(count,)](x, parts, size, per_program, BLOCK=_BLOCK, num_warps=8)
    same = torch.empty(rows, width, dtype=kind, device=x.device)
    turned = torch.empty(width, rows, dtype=kind, device=x.device)
    scale = torch.empty((), dtype=torch.float32, device=x.device)
    _cast_kernel[(programs(width, _COLUMNS), programs(rows, _ROWS))](
        x, parts, count, same, turned, scale, rows, width, torch.finfo(kind).max,
        PARTS=_PARTS, ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=8,
    )  # fmt: skip
    return same, turned, scale
