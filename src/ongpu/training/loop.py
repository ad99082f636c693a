"""The loop: steps, records, checkpoints, and a clean end when somebody stops it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ongpu.errors import InterruptedRunError, WorkError
from ongpu.training import checkpoint as checkpoints
from ongpu.training import device as devices
from ongpu.training.batches import Batch, HeldOut, Stream
from ongpu.training.config import Config
from ongpu.training.optimizer import AdamW
from ongpu.training.output import RunFolder
from ongpu.training.policy import Policy
from ongpu.training.precision import Weights
from ongpu.training.ranks import Alone
from ongpu.training.signals import StopRequest
from ongpu.training.step import Step, learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything a run is made of. ``settings`` is what decides the numbers it computes."""

    config: Config
    device: str
    weights: Weights
    optimizer: AdamW
    do_step: Step
    stream: Stream
    held_out: HeldOut | None
    folder: RunFolder
    settings: Mapping[str, object]
    policy: Policy
    """What is really done: it may be less than what was chosen."""
    ranks: Alone = field(default_factory=Alone)
    warnings: Sequence[str] = ()
    on_evaluation: Callable[[int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step as ``metrics.jsonl`` has it.

    ``tokens`` are the labels learned from, of all ranks: neither filling nor a masked prompt counts. ``seconds``
    runs from the end of the step before (or this one's launch, if that was later) until the device has finished the
    update.
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
class _Flight:
    """A step that was launched and whose numbers have not been read."""

    step: int
    lr: float
    began: float
    result: Any
    arrived: Any


def train(job: Job, *, done: int, stop: StopRequest, on_step: Callable[[StepRecord], None]) -> None:
    """Train from the step after ``done`` to the last, calling ``on_step`` after each.

    On a GPU one step is in flight while the one before it is read, so the device never waits for the host.

    :raises WorkError: the loss is not finite (before the update), or the disk is full.
    :raises InterruptedRunError: ``stop`` was requested; a checkpoint holds the last finished step.
    """
    config, flights = job.config, deque[_Flight]()
    ahead = 1 if job.device == "cuda" else 0
    last_end = time.perf_counter()
    batches = job.stream.step(done + 1) if done < config.max_steps else []
    job.weights.model.train()
    for step in range(done + 1, config.max_steps + 1):
        if stop.agreed or (stop.signal_name and job.ranks.world_size == 1):
            while flights:
                last_end = _land(job, flights.popleft(), last_end, stop=stop, on_step=on_step)
            raise _interrupted(job, step - 1, "a signal" if stop.agreed else str(stop.signal_name))
        flights.append(_launch(job, step, batches, stop=stop))
        if step < config.max_steps:
            batches = job.stream.step(step + 1)
        pause = step == config.max_steps or any(
            every and step % every == 0 for every in (config.save_every, config.eval_every)
        )
        while len(flights) > (0 if pause else ahead):
            last_end = _land(job, flights.popleft(), last_end, stop=stop, on_step=on_step)
        if config.save_every and (step % config.save_every == 0 or step == config.max_steps):
            save_checkpoint(job, step)
        if job.held_out and pause and (step == config.max_steps or step % (config.eval_every or step) == 0):
            job.on_evaluation(step, evaluate(job))
        if pause:
            last_end = time.perf_counter()


def _launch(job: Job, step: int, batches: Sequence[Batch], *, stop: StopRequest) -> _Flight:
    began = time.perf_counter()
    job.optimizer.learning_rate = learning_rate(job.config, step)
    result = job.do_step(batches)
    if job.ranks.world_size > 1:
        asked = torch.full((1,), float(stop.signal_name is not None), device=job.device)
        result = torch.cat([result, job.ranks.sum(asked)])
    arrived = None
    if job.device == "cuda":
        landing = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        result = landing.copy_(result, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()  # behind the update: when it has arrived, the step is done
    return _Flight(step=step, lr=job.optimizer.learning_rate, began=began, result=result, arrived=arrived)


def _land(
    job: Job, flight: _Flight, last_end: float, *, stop: StopRequest, on_step: Callable[[StepRecord], None]
) -> float:
    """Wait for a step, check and report its numbers; returns the time at which it was done."""
    if flight.arrived is not None:
        flight.arrived.synchronize()
    job.ranks.check()
    loss, norm, *asked = flight.result.tolist()
    end = time.perf_counter()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise _not_finite(flight, loss, norm, records=job.stream.records(flight.step))
    stop.agreed = stop.agreed or any(asked)
    devices.refuse_unsupported(job.warnings)
    seconds, tokens = end - max(last_end, flight.began), job.stream.targets(flight.step)
    on_step(
        StepRecord(
            step=flight.step,
            loss=loss,
            lr=flight.lr,
            grad_norm=norm,
            tokens=tokens,
            seconds=seconds,
            tokens_per_s=tokens / seconds,
            device=job.device,
            memory_reserved_bytes=torch.cuda.memory_reserved() if job.device == "cuda" else None,
        )
    )
    return end


def evaluate(job: Job) -> float:
    """Mean loss in nats over the labels of the records that were held out, one record a row."""
    assert job.held_out is not None
    model = job.weights.model
    model.eval()
    with torch.no_grad(), job.weights.arithmetic():
        mine = job.held_out.once(job.device, rank=job.ranks.rank, world_size=job.ranks.world_size)
        losses = [model.loss_sum(batch.ids, batch.labels) for batch in mine]
    model.train()
    return float(job.ranks.sum(torch.stack(losses).sum())) / job.held_out.targets


def _interrupted(job: Job, step: int, name: str) -> InterruptedRunError:
    path = save_checkpoint(job, step)
    return InterruptedRunError(
        f"Stopped by {name} after step {step} of {job.config.max_steps}; the checkpoint is {path}.",
        next_step="Continue with the same command and --resume.",
    )


def _not_finite(flight: _Flight, loss: float, norm: float, *, records: Sequence[int]) -> WorkError:
    what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm} (loss {loss:.4f})"
    learning = "Lower learning_rate" if flight.step > 1 else "Look at the model's weights, which no step has changed"
    return WorkError(
        f"The {what} at step {flight.step} (learning rate {flight.lr:g}, records {list(records)}); "
        "the update was withheld and no model was saved.",
        next_step=f"{learning}, or look at those records (counted from 0, those left out not counted).",
    )


def save_checkpoint(job: Job, step: int) -> str:
    """Write the checkpoint of ``step`` finished steps: each rank its parts, or the first rank whole weights.

    :raises WorkError: it cannot be written, or its weights are spoiled.
    """
    refuse_spoiled(job, step)
    ranks, output = job.ranks, job.folder.path
    there = ranks.share("checkpoint there", lambda: str(checkpoints.good(output, step) or ""))
    if there:
        return there  # a signal came right behind it
    tensors = _tensors(job)
    for generator, state in _random_states(job.device).items():
        for rank, one in enumerate(ranks.every(state.to(job.device))):
            tensors[_of_rank(generator, rank)] = one
    settings, keep = job.settings, job.config.keep_checkpoints
    if job.weights.in_parts:
        from ongpu.training import sharded_checkpoint  # noqa: PLC0415 - only runs in parts pay its import

        return sharded_checkpoint.save(output, step=step, tensors=tensors, settings=settings, keep=keep, ranks=ranks)

    def write() -> str:
        return str(checkpoints.save(output, step=step, tensors=tensors, settings=settings, keep=keep))

    return ranks.share("checkpoint", write)


def _tensors(job: Job) -> dict[str, Any]:
    """What this rank holds of weights and optimizer state, in their own memory."""
    tensors: dict[str, Any] = {"optimizer.step_count": job.optimizer.step_count}
    for name, weight in job.weights.masters.items():
        tensors[f"model.{name}"] = job.weights.part(name, weight)
        for key, value in job.optimizer.state.get(weight, {}).items():
            tensors[f"{key}.{name}"] = job.weights.part(name, value)
    return tensors


def _random_states(device: str) -> dict[str, Any]:
    """Where this rank's random numbers go on: dropout draws them, in models of transformers."""
    states = {"rng.cpu": torch.get_rng_state()}
    if device == "cuda":
        states["rng.cuda"] = torch.cuda.get_rng_state()
    return states


def _of_rank(generator: str, rank: int) -> str:
    return f"{generator}.{rank}" if rank else generator


def refuse_spoiled(job: Job, step: int) -> None:
    """:class:`WorkError` where weights that are about to be saved are not finite, or not the same on all ranks."""
    with torch.no_grad():
        finite = torch.stack([weight.isfinite().all() for weight in job.weights.masters.values()])
    if not bool(finite.all()):
        name = next(name for name, fine in zip(job.weights.masters, finite.tolist(), strict=True) if not fine)
        raise WorkError(
            f"The update of step {step} left {name} with values that are not finite; nothing was saved after it.",
            next_step="Lower learning_rate, or begin at an older checkpoint with --resume where there is one.",
        )
    refuse_drift(job, step)


def refuse_apart(job: Job) -> None:
    """Before the first step: an error where ranks began with other weights, or cannot all write into one folder."""
    refuse_drift(job, 0)
    if job.weights.in_parts:
        from ongpu.training import sharded_checkpoint  # noqa: PLC0415 - only runs in parts pay its import

        sharded_checkpoint.refuse_apart(job.folder.path, job.ranks)


def refuse_drift(job: Job, step: int) -> None:
    """:class:`WorkError` where ranks that each hold all weights do not hold the same ones."""
    if job.ranks.world_size == 1 or job.weights.in_parts:
        return
    with torch.no_grad():
        sums = torch.stack([weight.double().sum() for weight in job.weights.masters.values()])
    other = job.ranks.differs(f"weights after step {step}", repr(sums.tolist()))
    if other is not None:
        raise WorkError(
            f"After step {step} the weights of rank {other} are not those of rank 0; nothing was saved.",
            next_step="Use the same GPUs, libraries and code for all ranks, and look for hardware errors.",
        )


@torch.no_grad()
def restore(job: Job, found: checkpoints.Checkpoint) -> None:
    """Put weights, optimizer state and random state of ``found`` in place."""
    checkpoints.refuse_other_run(found, job.settings)
    tensors, states = _tensors(job), _random_states(job.device)
    if found.in_parts:
        from ongpu.training import sharded_checkpoint  # noqa: PLC0415 - only checkpoints in parts pay its import

        own = {_of_rank(generator, job.ranks.rank): state for generator, state in states.items()}
        sharded_checkpoint.load(found, tensors, own, ranks=job.ranks)
    else:
        _load_wholes(job, found, tensors, states)
    job.weights.publish()
    for generator, state in states.items():
        (torch.cuda if generator == "rng.cuda" else torch).set_rng_state(state)


def _load_wholes(
    job: Job, found: checkpoints.Checkpoint, tensors: Mapping[str, Any], states: Mapping[str, Any]
) -> None:
    """Fill ``tensors`` and this rank's random ``states`` from one file, which only the first rank reads."""
    wholes = checkpoints.load_tensors(found) if job.ranks.first else {}

    def fetch(key: str, like: Any) -> Any:
        empty = torch.empty(like.shape, dtype=like.dtype, device=job.device)  # the shape of a part is that of the whole
        whole = wholes[key].to(job.device) if job.ranks.first else empty
        job.ranks.copy(whole)
        return whole

    for key, part in tensors.items():
        job.weights.put(part, fetch(key, part))
    kept = job.ranks.share("random states", lambda: [key for key in wholes if key.startswith("rng.")])
    for generator, state in states.items():
        for rank in range(job.ranks.world_size):
            key = _of_rank(generator, rank)
            if key not in kept:
                continue  # a rank more than the run had that was stopped: it goes on from its seed
            there = fetch(key, state)
            if rank == job.ranks.rank:
                state.copy_(there)
