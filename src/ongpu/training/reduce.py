"""What several ranks add up in a step: gradients, the loss, and the gradients' norm where weights are in parts.

Every rank's loss is divided by the labels of *all* ranks before the backward pass, so gradients and losses are summed,
never averaged: the result is the mean over all labels, whatever each rank's share of them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class OneRank:
    """A process that trains alone has nothing to add up."""

    def backward(self, loss: Any, *, whole: bool) -> None:  # noqa: ARG002 - for several ranks
        """The backward pass of a micro-step; ``whole`` where it is the only one of its step."""
        loss.backward()

    def close(self, loss: Any, *, whole: bool) -> Any:  # noqa: ARG002 - for several ranks
        """After the last micro-step: the loss of all ranks, with their gradients in the optimizer's weights."""
        return loss

    def clip(self, weights: Sequence[Any], limit: float) -> Any:
        """Scale the gradients down to the norm ``limit``; returns the norm they had."""
        return torch.nn.utils.clip_grad_norm_(weights, limit, foreach=True)


ONE_RANK = OneRank()
