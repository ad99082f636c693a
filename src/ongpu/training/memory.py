"""What would have fitted: measured on the device that ran out of memory, not guessed, and never moved to the CPU."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import torch

from ongpu.training.config import Config
from ongpu.training.loop import Job
from ongpu.training.step import gradients


def largest_batch(job: Job) -> int | None:
    """The largest halving of ``batch_tokens`` or ``batch_size`` whose forward and backward pass fit now, if any.

    The weights and the optimizer's state are where they were, so what is measured is what a run would need.
    """
    size, least = _size(job.config) // 2, job.stream.longest if job.config.batch_tokens else 1
    while size >= least:
        if _fits(job, size):
            return size
        size //= 2
    return None


def _size(config: Config) -> int:
    return config.batch_tokens or config.batch_size


def _fits(job: Job, size: int) -> bool:
    _release(job)
    config = dataclasses.replace(job.config, grad_accumulation_steps=1)
    try:
        batches = [batch.to(job.device) for batch in job.stream.resized(size).step(1)]
        gradients(job.weights, job.optimizer, batches, config=config)
        if job.device == "cuda":
            torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return False
    finally:
        _release(job)
    return True


def _release(job: Job) -> None:
    job.weights.forget_gradients()
    gc.collect()
    if job.device == "cuda":
        torch.cuda.empty_cache()


def advice(job: Job) -> tuple[str, str]:
    """What was found, and the next step, each one sentence."""
    config = job.config
    name = "batch_tokens" if config.batch_tokens else "batch_size"
    if job.weights.in_parts:  # a forward pass needs all ranks, and the others stand still
        return "What would fit was not measured.", f"Halve {name} and double grad_accumulation_steps."
    fitting = largest_batch(job)
    if fitting is None:
        return (
            "Not even a batch of one record fits beside the weights and the optimizer's state.",
            "Take a shorter max_seq_length, a smaller model, or a GPU with more memory.",
        )
    parts = -(-_size(config) * config.grad_accumulation_steps // fitting)
    return (
        f"A {name} of {fitting} fits: one step of it was just measured.",
        f"Set {name}: {fitting} and grad_accumulation_steps: {parts} for as much a step.",
    )


def text_of(error: Any) -> str:
    """The first sentences of torch's message, which say how much was asked for and how much was free."""
    return ". ".join(str(error).split(". ")[:3]).rstrip(".")
