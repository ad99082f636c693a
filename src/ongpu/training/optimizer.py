"""AdamW in one fused call over all weights, with the update withheld on the device where the loss is not finite.

Why not ``torch.optim.AdamW``: making one imports ``torch._dynamo``, which took 1.0 s here, more than ``import
torch`` itself (torch 2.13.0, 2 cores); and its public interface has no way to withhold an update without first
reading the loss. This class stays a ``torch.optim.Optimizer``, so hooks on optimizer steps see it. The arithmetic
is that of ``torch._fused_adamw_``; a test holds it against ``torch.optim.AdamW``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ongpu.training.reduce import OneRank


class AdamW(torch.optim.Optimizer):
    """Decoupled weight decay Adam (Loshchilov and Hutter 2019), fused.

    ``learning_rate`` may be set before each step. A step whose ``withhold`` flag is 1 changes neither weights nor
    state.
    """

    def __init__(
        self,
        weights: Iterable[Any],
        *,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        every = [weight for weight in weights if weight.requires_grad]
        matrices = [weight for weight in every if weight.dim() >= 2]
        vectors = [weight for weight in every if weight.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.learning_rate = learning_rate
        super().__init__([group for group in groups if group["params"]], {"betas": betas, "eps": epsilon})
        device = every[0].device
        self.step_count = torch.zeros((), dtype=torch.float32, device=device)
        self.withhold = torch.zeros((), dtype=torch.float32, device=device)
        for weight in every:
            self.state[weight] = {
                "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
            }

    def weights(self) -> Iterator[Any]:
        """Every weight it updates."""
        for group in self.param_groups:
            yield from group["params"]

    def clip(self, limit: float, reduction: OneRank) -> Any:
        """Scale the gradients down to the norm ``limit``; returns the norm they had, of all ranks."""
        return reduction.clip(list(self.weights()), limit)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the base class does, without the wrapper that imports ``torch._dynamo``."""
        plain = getattr(torch.optim.Optimizer.add_param_group, "__wrapped__", None)
        if plain is None:
            super().add_param_group(param_group)
        else:
            plain(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - the base class's signature
        """Forget the gradients (or fill them with zeros)."""
        for group in self.param_groups:
            for weight in group["params"]:
                if set_to_none:
                    weight.grad = None
                elif weight.grad is not None:
                    weight.grad.zero_()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update from the gradients that are there; ``closure`` is not supported."""
        if closure is not None:
            raise TypeError("this optimizer takes no closure")
        self.step_count += 1 - self.withhold
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            states = [self.state[weight] for weight in weights]
            torch._fused_adamw_(
                weights,
                [weight.grad for weight in weights],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [self.step_count] * len(weights),
                lr=self.learning_rate,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=None,
                found_inf=self.withhold,
            )
