"""Which speed-ups are taken, and that each decision has its reason."""

from __future__ import annotations

import dataclasses

import pytest

from ongpu.training import policy
from ongpu.training.config import Config


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
