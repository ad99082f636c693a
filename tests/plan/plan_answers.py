"""Asking the planner about a scenario, and its decision in the words of the tables."""

from __future__ import annotations

import functools

from ongpu import catalog
from ongpu.domain.build import Decision, DecisionKind
from ongpu.plan import Request, described, plan
from tests.plan.plan_rules import Scenario
from tests.plan.plan_scenarios import Told


def answer_of(decision: Decision) -> str:
    """A build, ``source``, or the cause of a block."""
    match decision.decision:
        case DecisionKind.PREBUILT:
            return f"{decision.torch}+{decision.cuda_tag}"
        case DecisionKind.SOURCE:
            return "source"
        case DecisionKind.BLOCKED:
            assert decision.cause is not None
            return decision.cause.value


def decide(case: Scenario, *, facts: catalog.Catalog | None = None) -> Decision:
    """The decision for a scenario of the grid, by the shipped catalog or another."""
    return _by_shipped(case) if facts is None else _decide(case, facts)


@functools.cache
def _by_shipped(case: Scenario) -> Decision:
    return _decide(case, catalog.load())


def _decide(case: Scenario, facts: catalog.Catalog) -> Decision:
    machine = described(
        catalog=catalog.load(),
        gpus=[name for name, _ in case.gpus],
        driver=case.driver,
        os=case.os,
        arch=case.arch,
        python=case.python,
        glibc=case.glibc if case.os == "linux" else None,
    )
    return plan(machine, catalog=facts, request=Request(torch_spec=case.spec))


@functools.cache
def decide_told(case: Told) -> Decision:
    """The decision for a scenario that somebody wrote down."""
    machine = described(
        catalog=catalog.load(),
        gpus=case.gpus,
        driver=case.driver,
        os=case.os,
        arch=case.arch,
        python=case.python,
        glibc=case.glibc,
    )
    return plan(machine, catalog=catalog.load(), request=Request(torch_spec=case.spec))
