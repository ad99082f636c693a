"""As torch's own."""

from torch.optim.optimizer import Optimizer

__all__ = ["Optimizer"]
