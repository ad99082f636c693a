"""What the model families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

NOT_SMALL: Final[tuple[Any, ...]] = (None,) * 4
"""What multiplies a block's four products in float8, see ``fp8.py``: before attention and behind it, up and down."""


class NotOfThisShapeError(ValueError):
    """A configuration that our models do not cover; the text says what of it. Caught where a folder is opened."""


class Embedding(nn.Module):
    """A table of vectors, its weight left empty: ``nn.Embedding`` would fill it with numbers we do not use."""

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, width))

    def forward(self, ids: Any) -> Any:
        """The vectors of ``ids``."""
        return functional.embedding(ids, self.weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the kernels of ``kernels.py`` are compiled for."""

    width: int
    inner: int
    heads: int
    keys: int
    head_width: int
    vocabulary: int
    layer_norm: bool
    """With a mean and a shift; else root-mean-square."""
    biases: bool
    """Projections have them."""
    input_bias: bool
    """The projection before attention has one."""
    gated: bool
    turned: bool


def fused_module() -> Any:
    """``fused.py``."""
    from ongpu.training import fused  # noqa: PLC0415 - only a run that takes it pays its import

    return fused


def through(block: Any, x: Any, *rest: Any, recompute: bool) -> Any:
    """``block(x, *rest)``; with ``recompute`` its inside is computed again in the backward pass instead of kept."""
    if not (recompute and torch.is_grad_enabled()):
        return block(x, *rest)
    from torch.utils.checkpoint import checkpoint  # noqa: PLC0415 - only runs that ask for it pay its import

    # our blocks draw no random numbers, so there is no random state to put back
    return checkpoint(block, x, *rest, use_reentrant=False, preserve_rng_state=False)
