"""Weights, their float32 masters and AdamW's state in flat buffers, updated in one pass over memory.

The model's weights are bfloat16 views of one buffer, so projections that are used together lie together. The
optimizer's parameters are these; the masters are part of its state. An update reads a gradient once, in the type in
which the backward pass left it, and writes master, state and the bfloat16 weight at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import torch

from ongpu.training import update
from ongpu.training.optimizer import AdamW
from ongpu.training.precision import Weights
from ongpu.training.reduce import OneRank

_STATE: Final = ("exp_avg", "exp_avg_sq")


class FlatWeights(Weights):
    """bfloat16 weights in one buffer, float32 masters in another."""

    def __init__(self, model: Any, *, device: str) -> None:
        super().__init__(model, device=device)
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.places = list(_places([weight.numel() for weight in self.trained]))
        size = self.places[-1].stop if self.places else 0
        self.size = -(-size // update.BLOCK) * update.BLOCK
        self.flat = torch.zeros(self.size, dtype=torch.float32, device=device)
        self.copies = torch.zeros(self.size, dtype=torch.bfloat16, device=device)
        self._added: list[Any] = []
        self.small: list[Any] = []
        """Weights in float8, which are made anew in each step; see ``fp8.py``."""
        masters = dict(self.masters)
        names = {id(weight): name for name, weight in masters.items()}
        for weight, place in zip(self.trained, self.places, strict=True):
            master = self.flat[place].view(weight.shape)
            master.copy_(weight.detach())
            masters[names[id(weight)]] = master
            weight.data = self.copies[place].view(weight.shape)
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                masters[name] = weight.detach().clone()
                weight.data = weight.data.to(torch.bfloat16)
        self.masters = masters
        self.publish()

    def begin(self, *, first: bool) -> None:
        """Before each micro-step."""
        self.forget_gradients()  # what the one before it left was added up
        if first:
            for one in self.small:
                one.forget()

    def forget_gradients(self) -> None:
        """Give up the gradients."""
        for weight in self.trained:
            weight.grad = None

    def gather_gradients(self, *, first: bool, whole: bool) -> None:
        """Add up micro-steps in float32; a step of one leaves its gradients where they are."""
        if whole:
            self._added = []
            return
        gradients = [weight.grad for weight in self.trained]
        if not self._added:
            self._added = [torch.zeros_like(one, dtype=torch.float32) for one in gradients]
        put = torch._foreach_copy_ if first else torch._foreach_add_
        put(self._added, gradients)

    def gradients(self) -> list[Any]:
        """Of the step, in the order of ``trained``."""
        return self._added or [weight.grad for weight in self.trained]

    def updated(self) -> None:
        """An update has rounded the masters into the copies already."""

    def publish(self) -> None:
        """Round the masters into the copies."""
        self.copies.copy_(self.flat)

    def restore(self) -> None:
        """Turn the model to float32; it cannot be trained on after that."""
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.data = self.masters[name].detach().float()


def _places(sizes: list[int]) -> Iterator[slice]:
    """Where each tensor lies: no block of the optimizer's kernels holds two."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += -(-size // update.BLOCK) * update.BLOCK


class FlatAdamW(AdamW):
    """AdamW over :class:`FlatWeights`, in one kernel; the clipping of the gradients is part of the update."""

    def __init__(
        self,
        weights: FlatWeights,
        *,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        super().__init__(
            weights.trained, learning_rate=learning_rate, weight_decay=weight_decay, betas=betas, epsilon=epsilon
        )
        self._of, self._limit = weights, math.inf
        self._norm = torch.zeros((), dtype=torch.float32, device=weights.flat.device)
        self._flat_state = [torch.zeros_like(weights.flat) for _ in _STATE]
        masters = {id(weight): weights.masters[name] for name, weight in weights.model.named_parameters()}
        for weight, place in zip(weights.trained, weights.places, strict=True):
            views = [flat[place].view(weight.shape) for flat in self._flat_state]
            self.state.pop(weight)
            self.state[masters[id(weight)]] = dict(zip(_STATE, views, strict=True))
        self._blocks = update.Blocks(
            [weight.numel() for weight in weights.trained],
            [weight_decay if weight.dim() >= 2 else 0.0 for weight in weights.trained],
            device=weights.flat.device,
        )

    def clip(self, limit: float, reduction: OneRank) -> Any:  # noqa: ARG002 - every rank has all gradients here
        """The norm of the gradients; the update scales them down to ``limit``."""
        self._limit = limit
        self._blocks.take(self._of.gradients())
        self._norm.copy_(self._blocks.norm())
        return self._norm

    @torch.no_grad()
    def rehearse(self) -> None:
        """Call the kernels once, with an update that is withheld: nothing changes."""
        self._blocks.take([self._of.copies[place] for place in self._of.places])
        self._blocks.norm()
        self.withhold.fill_(1.0)
        self._update()
        self.withhold.zero_()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update from the gradients whose norm :meth:`clip` took; ``closure`` is not supported."""
        if closure is not None:
            raise TypeError("this optimizer takes no closure")
        self.step_count += 1 - self.withhold
        self._update()

    def _update(self) -> None:
        group = self.param_groups[0]
        average, square = self._flat_state
        self._blocks.update(
            weights=self._of.flat,
            average=average,
            square=square,
            copies=self._of.copies,
            step_count=self.step_count,
            norm=self._norm,
            withhold=self.withhold,
            learning_rate=self.learning_rate,
            betas=group["betas"],
            epsilon=group["eps"],
            max_norm=self._limit,
        )
