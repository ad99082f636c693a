"""What several ranks add up in a step: gradients, the loss, and the gradients' norm where weights are in parts.

Every rank's loss is divided by the labels of *all* ranks before the backward pass, so gradients and losses are summed,
never averaged: the result is the mean over all labels, whatever each rank's share of them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.distributed as dist

from ongpu.training.precision import Weights

BUCKET_BYTES: Final = 64 << 20
"""Gradients are sent when there is as much of them: each sending costs a round trip, and takes processors from the
products beside it for longer than its bytes need."""


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

    def __init__(self, weights: Weights, *, group: Any = None, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._weights = weights
        self._group, self._bucket_bytes = group or dist.group.WORLD, bucket_bytes
        self._listening = False
        self._works: list[Any] = []
        self._made: list[Any] = []
        self._made_bytes = 0
        for weight in weights.model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(self._take)

    def backward(self, loss: Any, *, whole: bool) -> None:
        """The backward pass; behind it, where it is the only one, every gradient is the sum over all ranks."""
        self._listening = whole
        try:
            loss.backward()
            if whole:
                self._finish()
        finally:
            self._listening = False
            self._works, self._made, self._made_bytes = [], [], 0

    def close(self, loss: Any, *, whole: bool) -> Any:
        """After the last micro-step: the loss of all ranks, with their gradients in the optimizer's weights."""
        if not whole:
            for gradient in self._weights.gradients():
                self._add(gradient)
            self._finish()
        dist.all_reduce(loss)
        return loss

    def _take(self, weight: Any) -> None:
        # every rank runs the same backward pass, so that all send the same gradients in the same order
        if self._listening:
            self._add(weight.grad)

    def _add(self, gradient: Any) -> None:
        if self._made and gradient.dtype != self._made[0].dtype:
            self._send()
        self._made.append(gradient)
        self._made_bytes += gradient.nbytes
        if self._made_bytes >= self._bucket_bytes:
            self._send()

    def _send(self) -> None:
        """Begin to sum what was made: one operation over many tensors, none of which is copied."""
        self._works.append(self._group.allreduce_coalesced(self._made))
        self._made, self._made_bytes = [], 0

    def _finish(self) -> None:
        if self._made:
            self._send()
        for work in self._works:
            work.wait()  # on a GPU: the stream waits, not this thread
        self._works = []
