"""The choices that every other tool gets wrong, one line each."""

from __future__ import annotations

import pytest

from ongpu import catalog
from ongpu.domain.build import DecisionKind
from ongpu.domain.verdict import Cause
from ongpu.plan import Request, plan


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("rtx5090-linux", "2.15.0+cu132"),
        ("rtx5090-linux-r570", "2.13.0+cu129"),
        ("gtx1080ti-linux", "2.14.1+cu126"),
        ("v100-linux", "2.14.1+cu126"),
        ("a100-linux-r535", "2.14.1+cu126"),
        ("k80-linux", "2.7.1+cu118"),
    ],
)
def test_a_described_machine_gets_the_newest_build_that_fits(name: str, label: str) -> None:
    decision = plan(catalog.described_machine(name), catalog=catalog.load(), request=Request())
    assert decision.decision is DecisionKind.PREBUILT
    assert f"{decision.torch}+{decision.cuda_tag}" == label
    assert decision.simulated


def test_open_and_proprietary_modules_cannot_be_had_together() -> None:
    decision = plan(catalog.described_machine("rtx5090-v100-linux"), catalog=catalog.load(), request=Request())
    assert decision.decision is DecisionKind.BLOCKED
    assert decision.cause is Cause.DRIVER_BROKEN
    assert decision.next_step
