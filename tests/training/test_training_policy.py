"""Which speed-ups are taken, and that each decision has its reason."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ongpu.training import gpt2, policy
from ongpu.training.batches import Stream
from ongpu.training.config import Config
from ongpu.training.data import IGNORED, Example
from ongpu.training.optimizer import AdamW
from ongpu.training.precision import Weights
from ongpu.training.step import RecordedStep


@pytest.mark.parametrize(
    ("changes", "device", "native", "graph"),
    [
        ({}, "cuda", True, True),
        ({}, "cpu", True, False),
        ({"cuda_graph": "always"}, "cpu", True, False),
        ({"cuda_graph": "never"}, "cuda", True, False),
        ({"cuda_graph": "always", "max_steps": 2}, "cuda", True, True),
        ({"max_steps": 5}, "cuda", True, False),
        ({"grad_accumulation_steps": 9}, "cuda", True, False),
        ({"compile": "always"}, "cuda", True, True),
        ({}, "cuda", False, False),
    ],
)
def test_when_a_step_is_recorded(*, changes: dict[str, object], device: str, native: bool, graph: bool) -> None:
    config = dataclasses.replace(Config(), **changes)  # type: ignore[arg-type]
    assert policy.choose(config, device=device, native=native).cuda_graph.taken is graph


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"max_steps": 50}, False),
        ({"max_steps": 50, "kernels": "always"}, True),
        ({"kernels": "never"}, False),
        ({"precision": "float32"}, False),
        ({"packing": False}, False),
        ({"compile": "always"}, False),
    ],
)
@pytest.mark.parametrize("team", [False, True])
def test_when_kernels_of_our_own_are_taken(*, changes: dict[str, object], team: bool, taken: bool) -> None:
    base = dataclasses.replace(Config(), precision="bfloat16", packing=True, max_steps=1000)
    config = dataclasses.replace(base, **changes)  # type: ignore[arg-type]
    others = policy.Team(weights=1, memory_bytes=1 << 36) if team else None
    found = policy.choose(config, device="cuda", native=True, team=others)
    assert found.kernels.taken is taken
    assert found.kernels.reason
    assert not policy.choose(config, device="cpu", native=True).kernels.taken
    assert not policy.choose(config, device="cuda", native=True, unfused="why").kernels.taken


def test_kernels_that_could_not_be_had_are_not_told_as_taken() -> None:
    config = dataclasses.replace(Config(), precision="bfloat16", packing=True, max_steps=1000)
    chosen = policy.choose(config, device="cuda", native=True)
    told = [str(choice) for choice in chosen.without_kernels("no compiler").choices]
    assert "kernels of our own: no, no compiler" in told
    assert not any(one.startswith("kernels of our own: yes") for one in told)
    assert len(told) == len(chosen.choices)


def test_a_short_job_is_never_compiled_cold() -> None:
    short = dataclasses.replace(Config(), compile="auto", max_steps=50)
    long = dataclasses.replace(short, max_steps=50_000)
    assert not policy.choose(short, device="cuda", native=True).compile.taken
    assert policy.choose(long, device="cuda", native=True).compile.taken
    assert not policy.choose(long, device="cpu", native=True).compile.taken


def test_every_choice_says_why() -> None:
    for choice in policy.choose(Config(), device="cpu", native=False).choices:
        assert len(choice.reason) > 10
        assert str(choice).startswith(choice.what)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where nothing can be recorded")
@pytest.mark.parametrize("asked", ["auto", "always"])
def test_a_step_that_cannot_be_recorded_is_launched_and_said(asked: str) -> None:
    config = dataclasses.replace(Config(), cuda_graph=asked)
    weights = Weights(gpt2.build(gpt2.tiny_shape(vocab_size=64, end_id=0), seed=1), device="cpu")
    optimizer = AdamW(weights.masters.values(), learning_rate=1e-3, weight_decay=0.0, betas=(0.9, 0.999), epsilon=1e-8)
    said: list[str] = []
    step = RecordedStep(weights, optimizer, config=config, device="cpu", note=said.append)
    examples = [Example(ids=(1, 2, 3), labels=(2, 3, IGNORED)) for _ in range(8)]
    batches = Stream(examples, seed=1, batch_size=8, micro_steps=1, max_steps=1, packed=False, fill=0).step(1)
    if asked == "always":  # recording needs a CUDA stream, which this machine cannot make
        with pytest.raises(RuntimeError):
            step(batches)
        return
    loss, _ = step(batches).tolist()
    assert loss > 0
    assert not step.recorded
    assert len(said) == 1
    assert "could not be recorded" in said[0]
