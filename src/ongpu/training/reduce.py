"""What several ranks add up in a step: gradients, the loss, and the gradients' norm where weights are in parts.

Every rank's loss is divided by the labels of *all* ranks before the backward pass, so gradients and losses are summed,
never averaged: the result is the mean over all labels, whatever each rank's share of them is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist

from ongpu.training.precision import Weights

_SMALL_BYTES: Final = 1 << 20
"""Gradients below this are sent together, at the end: alone, each would cost a round trip."""


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


class ManyRanks(OneRank):
    """Ranks that each hold all weights: their gradients are summed while the backward pass makes the next ones.

    They are summed in the type in which they were computed, bfloat16 for bfloat16 weights. A step of several
    micro-steps is summed once, at its end, in the type in which they were accumulated.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._listening = False
        self._works: list[Any] = []
        self._small: list[Any] = []
        for weight in weights.model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(self._made)

    def backward(self, loss: Any, *, whole: bool) -> None:
        """The backward pass; behind it, where it is the only one, every gradient is the sum over all ranks."""
        self._listening = whole
        try:
            loss.backward()
            self._finish()
        finally:
            self._listening = False
            self._works, self._small = [], []

    def close(self, loss: Any, *, whole: bool) -> Any:
        """After the last micro-step: the loss of all ranks, with their gradients in the optimizer's weights."""
        if not whole:
            self._send(self._weights.gradients())
            self._finish()
            self._works, self._small = [], []
        dist.all_reduce(loss)
        return loss

    def _made(self, weight: Any) -> None:
        # every rank runs the same backward pass, so that all send the same gradients in the same order
        if self._listening:
            self._send([weight.grad])

    def _send(self, gradients: Iterable[Any]) -> None:
        for gradient in gradients:
            if gradient.nbytes < _SMALL_BYTES:
                self._small.append(gradient)
            else:
                self._works.append(dist.all_reduce(gradient, async_op=True))

    def _finish(self) -> None:
        if self._small:
            together = torch.cat([gradient.reshape(-1) for gradient in self._small])
            dist.all_reduce(together)
            parts = together.split([gradient.numel() for gradient in self._small])
            torch._foreach_copy_(self._small, [p.view_as(g) for p, g in zip(parts, self._small, strict=True)])
        for work in self._works:
            work.wait()  # on a GPU: the stream waits, not this thread
