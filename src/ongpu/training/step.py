"""One optimizer step: forward, backward, norm, update. Nothing here waits for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch

from ongpu.training.batches import Batch
from ongpu.training.config import Config
from ongpu.training.optimizer import AdamW
from ongpu.training.precision import Weights
from ongpu.training.reduce import ONE_RANK, OneRank

_WARM_UP_RUNS: Final = 1


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of the step with this number, counted from 1."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.learning_rate
    done = (step - 1 - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    left = 1 - min(1.0, done)
    return config.learning_rate * (left if config.lr_schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


def gradients(
    weights: Weights,
    optimizer: AdamW,
    batches: Sequence[Batch],
    *,
    config: Config,
    reduction: OneRank = ONE_RANK,
) -> Any:
    """Leave the gradients of a step in the weights, and return a tensor (mean loss in nats, gradient norm).

    The loss is the mean over all labels of all ``batches`` (of all ranks, by ``reduction``). Where it or the norm is
    not finite the optimizer is told, on the device, to withhold this update and every later one, until somebody
    reads the loss and stops.
    """
    whole = len(batches) == 1
    total = torch.zeros_like(optimizer.withhold)
    for place, batch in enumerate(batches):
        weights.begin(first=place == 0)
        with weights.arithmetic():
            loss = weights.model.loss_sum(batch.ids, batch.labels, batch.layout, chunk_tokens=config.loss_chunk_tokens)
            loss = loss * batch.share
        reduction.backward(loss, whole=whole)
        weights.gather_gradients(first=place == 0, whole=whole)
        total = total + loss.detach()
    total = reduction.close(total, whole=whole)
    norm = optimizer.clip(config.max_grad_norm or math.inf, reduction)
    finite = torch.isfinite(total) & torch.isfinite(norm)
    optimizer.withhold.copy_(torch.maximum(optimizer.withhold, (~finite).float()))
    return torch.stack([total, norm])


class Step(Protocol):
    """A way to do a step."""

    @property
    def recorded(self) -> bool:
        """Whether it replays a recording."""
        ...

    def __call__(self, batches: Sequence[Batch]) -> Any:
        """Do a step; returns (mean loss, gradient norm), on its way on the device."""
        ...


class EagerStep:
    """Launch every operation of every step."""

    recorded = False

    def __init__(
        self, weights: Weights, optimizer: AdamW, *, config: Config, device: str, reduction: OneRank = ONE_RANK
    ) -> None:
        self._weights, self._optimizer, self._config, self._device = weights, optimizer, config, device
        self._reduction = reduction

    def __call__(self, batches: Sequence[Batch]) -> Any:
        """Do a step; returns (mean loss, gradient norm), on its way on the device."""
        moved = [batch.to(self._device) for batch in batches]
        result = gradients(self._weights, self._optimizer, moved, config=self._config, reduction=self._reduction)
        self._optimizer.step()
        self._weights.updated()
        return result


class RecordedStep:
    """Record forward, backward and norm once as a CUDA graph, and replay them: a launch instead of a thousand.

    The kernels and their order are those of :class:`EagerStep`. The update stays outside, so that whoever watches
    optimizer steps sees each of them with its gradients.
    """

    def __init__(
        self,
        weights: Weights,
        optimizer: AdamW,
        *,
        config: Config,
        device: str,
        note: Callable[[str], None],
        reduction: OneRank = ONE_RANK,
    ) -> None:
        self._weights, self._optimizer, self._config, self._device = weights, optimizer, config, device
        self._note, self._reduction = note, reduction
        self._graph: Any = None
        self._instead: EagerStep | None = None
        self._inputs: list[Batch] = []
        self._result: Any = None

    @property
    def recorded(self) -> bool:
        """Whether the recording is there; it is made by the first step."""
        return self._graph is not None

    def __call__(self, batches: Sequence[Batch]) -> Any:
        """Do a step; returns (mean loss, gradient norm), on its way on the device."""
        if self._graph is None and self._instead is None:
            self._record_or_launch(batches)
        if self._instead is not None:
            return self._instead(batches)
        for here, batch in zip(self._inputs, batches, strict=True):
            for target, source in zip(here.tensors(), batch.tensors(), strict=True):
                target.copy_(source, non_blocking=True)
        self._graph.replay()
        self._optimizer.step()
        self._weights.updated()
        return self._result

    def _record_or_launch(self, batches: Sequence[Batch]) -> None:
        try:
            self._record(batches)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self._config.cuda_graph == "always":
                raise
            reason = str(error).splitlines()[0]
            self._note(f"The step could not be recorded ({reason}), so each operation is launched, on the same GPU.")
            self._weights.forget_gradients()
            self._optimizer.withhold.zero_()
            self._instead = EagerStep(
                self._weights, self._optimizer, config=self._config, device=self._device, reduction=self._reduction
            )

    def _record(self, batches: Sequence[Batch]) -> None:
        self._inputs = [batch.to(self._device) for batch in batches]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries make their workspaces on first use, which cannot be recorded
            for _ in range(_WARM_UP_RUNS):
                self._gradients()
        torch.cuda.current_stream().wait_stream(side)
        self._weights.forget_gradients()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._result = self._gradients()
        self._optimizer.withhold.zero_()
        self._graph = graph

    def _gradients(self) -> Any:
        return gradients(self._weights, self._optimizer, self._inputs, config=self._config, reduction=self._reduction)
