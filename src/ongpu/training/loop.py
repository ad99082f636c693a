"""The loop: steps, records, checkpoints, and a clean end when somebody stops it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

import torch

from ongpu.errors import InterruptedRunError, WorkError
from ongpu.training import checkpoint as checkpoints
from ongpu.training import device as devices
from ongpu.training.config import Config
from ongpu.training.data import Batch, Example, collate, order
from ongpu.training.optimizer import AdamW
from ongpu.training.output import RunFolder
from ongpu.training.step import learning_rate, train_step

_SECOND_SIGNAL_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything a run is made of. ``settings`` is what decides the numbers it computes."""

    config: Config
    device: str
    model: Any
    optimizer: AdamW
    examples: Sequence[Example]
    fill: int
    folder: RunFolder
    settings: Mapping[str, object]
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step as ``metrics.jsonl`` has it.

    ``tokens`` are the labels learned from: neither filling nor a masked prompt counts. ``seconds`` runs from the
    first touch of the step's data until the device has finished the update.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_s: float
    device: str
    memory_reserved_bytes: int | None


@dataclass(slots=True)
class StopRequest:
    """Set by Ctrl-C or SIGTERM; the loop ends after the step it is in."""

    signal_name: str | None = None
    at: float = field(default=0.0)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second SIGINT a second later interrupts at once."""
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if request.signal_name and number == signal.SIGINT and now - request.at > _SECOND_SIGNAL_S:
            raise KeyboardInterrupt
        if not request.signal_name:
            request.signal_name, request.at = signal.Signals(number).name, now

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def batches_of(job: Job, step: int, at: Callable[[int], int]) -> list[Batch]:
    """The micro-batches of a step, counted from 1."""
    config = job.config
    length = max(len(example.ids) for example in job.examples)
    first = (step - 1) * config.batch_size * config.grad_accumulation_steps
    return [
        collate(
            job.examples,
            [at(first + micro * config.batch_size + row) for row in range(config.batch_size)],
            length=length,
            fill=job.fill,
        )
        for micro in range(config.grad_accumulation_steps)
    ]


def train(job: Job, *, done: int, stop: StopRequest, on_step: Callable[[StepRecord], None]) -> None:
    """Train from the step after ``done`` to the last, calling ``on_step`` after each.

    :raises WorkError: the loss is not finite (before the update), or the disk is full.
    :raises InterruptedRunError: ``stop`` was requested; a checkpoint holds the last finished step.
    """
    config, at = job.config, order(len(job.examples), seed=job.config.seed)
    job.model.train()
    for step in range(done + 1, config.max_steps + 1):
        if stop.signal_name:
            raise _interrupted(job, step - 1, stop.signal_name)
        began = time.perf_counter()
        batches = batches_of(job, step, at)
        job.optimizer.learning_rate = learning_rate(config, step)
        # reading the numbers waits for the device: the clock is read when the update is done
        loss, norm = train_step(job.model, job.optimizer, batches, config=config, device=job.device).tolist()
        seconds = time.perf_counter() - began
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _not_finite(job, step, loss, norm, batches)
        devices.refuse_unsupported(job.warnings)
        tokens = sum(batch.targets for batch in batches)
        on_step(
            StepRecord(
                step=step,
                loss=loss,
                lr=job.optimizer.learning_rate,
                grad_norm=norm,
                tokens=tokens,
                seconds=seconds,
                tokens_per_s=tokens / seconds,
                device=job.device,
                memory_reserved_bytes=torch.cuda.memory_reserved() if job.device == "cuda" else None,
            )
        )
        if config.save_every and (step % config.save_every == 0 or step == config.max_steps):
            save_checkpoint(job, step)


def _interrupted(job: Job, step: int, name: str) -> InterruptedRunError:
    path = save_checkpoint(job, step)
    return InterruptedRunError(
        f"Stopped by {name} after step {step} of {job.config.max_steps}; the checkpoint is {path}.",
        next_step="Continue with the same command and --resume.",
    )


def _not_finite(job: Job, step: int, loss: float, norm: float, batches: Sequence[Batch]) -> WorkError:
    what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm} (loss {loss:.4f})"
    records = [index for batch in batches for index in batch.records]
    return WorkError(
        f"The {what} at step {step} (learning rate {job.optimizer.learning_rate:g}, records {records}); "
        "the update was withheld and no model was saved.",
        next_step="Lower learning_rate, or look at those records (counted from 0, those left out not counted).",
    )


def save_checkpoint(job: Job, step: int) -> Any:
    """Write the checkpoint of ``step`` finished steps."""
    tensors: dict[str, Any] = {"optimizer.step_count": job.optimizer.step_count, "rng.cpu": torch.get_rng_state()}
    if job.device == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for name, weight in job.model.named_parameters():
        tensors[f"model.{name}"] = weight
        for key, value in job.optimizer.state.get(weight, {}).items():
            tensors[f"{key}.{name}"] = value
    return checkpoints.save(
        job.folder.path, step=step, tensors=tensors, settings=job.settings, keep=job.config.keep_checkpoints
    )


def restore(job: Job, found: checkpoints.Checkpoint) -> None:
    """Put weights, optimizer state and random state of ``found`` in place."""
    checkpoints.refuse_other_run(found, job.settings)
    tensors = checkpoints.load_tensors(found)
    with torch.no_grad():
        job.optimizer.step_count.copy_(tensors["optimizer.step_count"])
        for name, weight in job.model.named_parameters():
            weight.copy_(tensors[f"model.{name}"])
            for key, value in job.optimizer.state.get(weight, {}).items():
                value.copy_(tensors[f"{key}.{name}"])
    torch.set_rng_state(tensors["rng.cpu"])
    if job.device == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])
