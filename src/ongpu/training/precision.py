"""Weights as the optimizer sees them, always float32, and as the model computes with them.

``float32``: one and the same. ``bfloat16`` with a model of ours: the model holds bfloat16 copies; gradients are
gathered into float32, AdamW updates float32 masters, and the copies are made anew after each update, each in a
single launch over all weights. ``bfloat16`` with a model of transformers: autocast, since such a model may count on
float32 in places nobody here knows of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch


class Weights:
    """The float32 weights of a model that are trained, by name."""

    in_parts = False
    """Whether each rank holds a part of every weight only."""

    def __init__(self, model: Any, *, device: str, autocast: bool = False) -> None:
        self.model = model
        self.masters: Mapping[str, Any] = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        self._device, self._autocast = device, autocast

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the model is called."""
        return torch.autocast(self._device, torch.bfloat16) if self._autocast else contextlib.nullcontext()

    def forget_gradients(self) -> None:
        """Give up the gradients."""
        for weight in self.masters.values():
            weight.grad = None

    def begin(self, *, first: bool) -> None:
        """Before each micro-step; ``first`` of its step."""
        if first:
            self.forget_gradients()

    def gather_gradients(self, *, first: bool, whole: bool) -> None:
        """After each backward pass; ``first`` of its step, or ``whole`` where it is the only one."""

    def gradients(self) -> list[Any]:
        """What the optimizer is about to read, after the last micro-step of a step."""
        return [weight.grad for weight in self.masters.values() if weight.grad is not None]

    def updated(self) -> None:
        """After each update of the masters."""
        self.publish()

    def publish(self) -> None:
        """After the masters were changed."""

    def restore(self) -> None:
        """Give the model its float32 weights, for saving."""

    def part(self, name: str, tensor: Any) -> Any:  # noqa: ARG002 - for weights in parts
        """``tensor``, what this rank holds of the weight ``name`` or of a state beside it, as part of the whole."""
        return tensor.detach()

    def put(self, part: Any, whole: Any) -> None:
        """Copy of ``whole`` what belongs into ``part``."""
        part.copy_(whole)


class MasterWeights(Weights):
    """float32 masters beside a model that is converted to bfloat16."""

    def __init__(self, model: Any, *, device: str) -> None:
        masters = {
            name: torch.nn.Parameter(weight.detach().clone())
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }
        super().__init__(model.to(torch.bfloat16), device=device)
        copies, self.masters = self.masters, masters
        self._pairs = [(masters[name], weight) for name, weight in copies.items()]
        for master, _ in self._pairs:
            master.grad = torch.zeros_like(master)

    def forget_gradients(self) -> None:
        """Forget those of the copies; those of the masters are overwritten, where a recorded step knows them."""
        for _, weight in self._pairs:
            weight.grad = None

    def gather_gradients(self, *, first: bool, whole: bool) -> None:  # noqa: ARG002 - one way for both
        """Copy the copies' gradients to the masters' in float32, or add them."""
        put = torch._foreach_copy_ if first else torch._foreach_add_
        put([master.grad for master, _ in self._pairs], [weight.grad for _, weight in self._pairs])
        self.forget_gradients()

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the copies."""
        torch._foreach_copy_([weight for _, weight in self._pairs], [master for master, _ in self._pairs])

    def restore(self) -> None:
        """Turn the model to float32 and copy the masters into it; it cannot be trained on after that."""
        self.model.float()
        with torch.no_grad():
            for master, weight in self._pairs:
                weight.copy_(master)
