"""Causal attention, over rows of one record each or over one row of many whole records (packing).

A packed row has no filling between its records, and each token attends to its own record alone. On CUDA in
bfloat16 that is one FlashAttention call over ``boundaries``; everywhere else the records are spread out to rows for
the attention alone, which is the same function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the records of a packed row are. Every tensor has the same shape in every step of a run.

    :param positions: the place of each token in its record, shape (tokens).
    :param boundaries: first token of each record and the end, int32; filling counts as further records, and
        empty ones fill the list up.
    :param spread: for each cell of (records, longest) the token that stands there; cells behind a record's end
        repeat a token and are never read back. Shape (records * longest).
    :param gather: for each token its cell; a filling token has any cell.
    :param longest: tokens of the longest record, the same for the whole run.
    """

    positions: Any
    boundaries: Any
    spread: Any
    gather: Any
    longest: int

    def tensors(self) -> tuple[Any, ...]:
        """Its tensors, in one order."""
        return (self.positions, self.boundaries, self.spread, self.gather)


def attend(query: Any, key: Any, value: Any, layout: Layout | None) -> Any:
    """Mix ``value``, all of shape (rows, tokens, heads, head width); keys and values may have fewer heads.

    The result has the shape of ``query``.
    """
    if layout is None:
        return _rows(query, key, value)
    if query.is_cuda and query.dtype in {torch.bfloat16, torch.float16}:
        # the operator under torch.nn.attention.varlen, whose import would bring in torch._dynamo
        # (cumulative lengths, longest record, no dropout, causal, no debug mask)
        mixed = torch.ops.aten._flash_attention_forward(
            query[0],
            key[0],
            value[0],
            layout.boundaries,
            layout.boundaries,
            layout.longest,
            layout.longest,
            0.0,
            True,  # noqa: FBT003 - an operator's positional argument
            False,  # noqa: FBT003 - an operator's positional argument
        )
        return mixed[0][None]
    spread = [part[0][layout.spread].view(-1, layout.longest, *part.shape[2:]) for part in (query, key, value)]
    return _rows(*spread).reshape(-1, *query.shape[2:])[layout.gather][None]


def _rows(query: Any, key: Any, value: Any) -> Any:
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    if key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
