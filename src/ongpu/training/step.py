"""One optimizer step: forward, backward, norm, update. Nothing here waits for the device."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch

from ongpu.training.config import Config
from ongpu.training.data import Batch
from ongpu.training.optimizer import AdamW


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of the step with this number, counted from 1."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.learning_rate
    done = (step - 1 - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    left = 1 - min(1.0, done)
    return config.learning_rate * (left if config.lr_schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


def train_step(model: Any, optimizer: AdamW, batches: Sequence[Batch], *, config: Config, device: str) -> Any:
    """Do one step and return a tensor (mean loss in nats, gradient norm), still on its way on the device.

    The loss is the mean over all labels of all ``batches``. Where it or the norm is not finite the update is
    withheld on the device, and so is every later one, until somebody reads the loss and stops.
    """
    targets = sum(batch.targets for batch in batches)
    total = torch.zeros((), device=device)
    for batch in batches:
        ids, labels = batch.ids.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
        with _arithmetic(config, device):
            loss = model.loss_sum(ids, labels) / targets
        loss.backward()
        total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(list(optimizer.weights()), config.max_grad_norm or math.inf, foreach=True)
    finite = torch.isfinite(total) & torch.isfinite(norm)
    optimizer.withhold.copy_(torch.maximum(optimizer.withhold, (~finite).float()))
    optimizer.step()
    optimizer.zero_grad()
    return torch.stack([total, norm])


def _arithmetic(config: Config, device: str) -> contextlib.AbstractContextManager[Any]:
    if config.precision == "bfloat16":
        return torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext()
