"""What the model families share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


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
