"""When memory runs out, what would have fitted is measured, and nothing moves to another device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ongpu.training import gpt2, memory
from ongpu.training.batches import Stream
from ongpu.training.config import Config
from ongpu.training.data import IGNORED, Example
from ongpu.training.loop import Job
from ongpu.training.optimizer import AdamW
from ongpu.training.output import RunFolder
from ongpu.training.policy import choose
from ongpu.training.precision import Weights
from ongpu.training.step import EagerStep

TEXT = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. More."


class Small:
    """A model on a device that holds no more than ``rows`` records: the door of memory, replayed on the CPU."""

    def __init__(self, inner: Any, rows: int) -> None:
        self.inner, self.rows, self.asked = inner, rows, list[int]()
        self.named_parameters, self.parameters = inner.named_parameters, inner.parameters

    def loss_sum(self, ids: Any, labels: Any, layout: Any, *, chunk_tokens: int) -> Any:
        self.asked.append(ids.shape[0])
        if ids.shape[0] > self.rows:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. More."
            )
        return self.inner.loss_sum(ids, labels, layout, chunk_tokens=chunk_tokens)


def job(tmp_path: Path, *, rows: int) -> tuple[Job, Small]:
    config = Config(batch_size=12, grad_accumulation_steps=2, max_steps=3)
    examples = [Example(ids=(1, 2, 3), labels=(2, 3, IGNORED)) for _ in range(20)]
    model = Small(gpt2.build(gpt2.tiny_shape(vocab_size=64, end_id=0), seed=1), rows)
    weights = Weights(model, device="cpu")
    optimizer = AdamW(weights.masters.values(), learning_rate=1e-3, weight_decay=0.0, betas=(0.9, 0.999), epsilon=1e-8)
    made = Job(
        config=config,
        device="cpu",
        weights=weights,
        optimizer=optimizer,
        do_step=EagerStep(weights, optimizer, config=config, device="cpu"),
        stream=Stream(examples, seed=1, batch_size=12, micro_steps=2, max_steps=3, packed=False, fill=0),
        held_out=None,
        folder=RunFolder.claim(tmp_path / "out", resume=False),
        settings={},
        policy=choose(config, device="cpu", native=True),
        on_evaluation=lambda step, loss: None,
    )
    return made, model


@pytest.mark.parametrize(
    ("rows", "found", "asked"), [(7, 6, [6]), (4, 3, [6, 3]), (2, 1, [6, 3, 1]), (0, None, [6, 3, 1])]
)
def test_the_largest_halving_that_fits_is_measured(
    tmp_path: Path, rows: int, found: int | None, asked: list[int]
) -> None:
    made, model = job(tmp_path, rows=rows)
    before = [weight.detach().clone() for weight in model.parameters()]
    assert memory.largest_batch(made) == found
    assert model.asked == asked
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(weight.grad is None for weight in model.parameters())


def test_the_advice_keeps_the_records_of_a_step(tmp_path: Path) -> None:
    what, step = memory.advice(job(tmp_path, rows=7)[0])
    assert what == "A batch_size of 6 fits: one step of it was just measured."
    assert step == "Set batch_size: 6 and grad_accumulation_steps: 4 for as much a step."
    assert "Not even a batch of one" in memory.advice(job(tmp_path / "b", rows=0)[0])[0]


def test_the_message_says_how_much_was_asked_for() -> None:
    error = torch.OutOfMemoryError(TEXT)
    assert memory.text_of(error) == "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free"
