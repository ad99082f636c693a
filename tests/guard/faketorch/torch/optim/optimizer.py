"""The global hooks of torch's optimizers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

_hooks: OrderedDict[int, Callable[..., None]] = OrderedDict()


class _Handle:
    def __init__(self, number: int) -> None:
        self.number = number

    def remove(self) -> None:
        _hooks.pop(self.number, None)


def register_optimizer_step_post_hook(hook: Callable[..., None]) -> _Handle:
    _hooks[len(_hooks)] = hook
    return _Handle(len(_hooks) - 1)


class Optimizer:
    """Adam's shape: two moments and a step counter on the host."""

    def __init__(self, parameters: list[Any]) -> None:
        self.param_groups = [{"params": list(parameters)}]
        self.state: dict[Any, dict[str, Any]] = {}

    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            moments = {name: torch.Tensor(parameter.size, parameter.device) for name in ("exp_avg", "exp_avg_sq")}
            self.state[parameter] = {**moments, "step": torch.Tensor(4, "cpu")}
        for hook in _hooks.values():
            hook(self, (), {})
