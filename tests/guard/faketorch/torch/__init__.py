"""A torch of a few lines with a pretended GPU: what the hook touches, and nothing else.

It lets the hook's CUDA paths run where there is no GPU. What it answers has the shape of what torch 2.11 answered on an
H100; whether the real one still does is what ``test_guard_gpu.py`` asks.
"""

from __future__ import annotations

from typing import Any

import torch.version  # noqa: F401 - before the rest, as the real one has it
from torch import autograd, cuda, optim, version

__version__ = "2.11.0+fake"


class Tensor:
    """Bytes on a device."""

    def __init__(self, size: int, device: str, *, requires_grad: bool = False) -> None:
        self.size, self.device, self.requires_grad = size, device, requires_grad
        self.is_leaf = True
        self.grad: Tensor | None = None

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def numel(self) -> int:
        return self.size // 4

    def element_size(self) -> int:
        return 4

    def dim(self) -> int:
        return 0 if self.size == 4 else 1


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


__all__ = ["Tensor", "autograd", "cuda", "is_tensor", "optim", "version"]
