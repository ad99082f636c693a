"""Every scenario of the grid against the rules, and every scenario of the pages against its answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ongpu import catalog
from ongpu.domain.arch import Fit
from ongpu.domain.build import DecisionKind
from tests.plan import choice_page
from tests.plan.plan_answers import answer_of, decide, decide_told
from tests.plan.plan_rules import Scenario, expected
from tests.plan.plan_scenarios import TOLD, Told, scenarios

GRID = scenarios()


def test_the_grid_is_large_and_has_every_kind_of_answer() -> None:
    answers = [expected(one) for one in GRID]
    assert len(GRID) >= 150
    assert len(set(GRID)) == len(GRID)
    for cause in ("driver-too-old", "driver-too-new", "driver-broken", "python-env", "wheel-no-arch", "undetermined"):
        assert cause in answers
    assert len({one for one in answers if "+" in one}) >= 12


@pytest.mark.parametrize("case", GRID, ids=lambda one: f"{one.id} glibc {one.glibc}")
def test_the_planner_answers_as_the_rules_do(case: Scenario) -> None:
    decision = decide(case)
    assert answer_of(decision) == expected(case)
    assert decision.next_step
    assert decision.axes
    if decision.decision is DecisionKind.PREBUILT:
        assert all(one.fit is not Fit.NONE for one in decision.fit)
        assert len(decision.fit) == len(case.gpus)
        assert decision.command[:3] == ("uv", "pip", "install")


def test_the_grid_notices_a_planted_error() -> None:
    """A comparison that cannot fail proves nothing: one target taken from one row must show."""
    real = catalog.load()
    builds = list(real.builds)
    place = next(n for n, one in enumerate(builds) if one.label == "2.14.1+cu126" and one.os == "linux")
    without = tuple(one for one in builds[place].targets if str(one) != "sm_60")
    builds[place] = dataclasses.replace(builds[place], targets=without)
    planted = dataclasses.replace(real, builds=tuple(builds))
    wrong = [one.id for one in GRID if "1080 Ti" in one.id and answer_of(decide(one, facts=planted)) != expected(one)]
    assert len(wrong) > 5


@pytest.mark.parametrize("case", TOLD, ids=lambda one: f"{one.number} {one.words}")
def test_the_planner_is_right_where_other_tools_are_wrong(case: Told) -> None:
    assert answer_of(decide_told(case)) == case.answer


def test_the_published_table_is_what_the_planner_answers() -> None:
    assert choice_page.PAGE.name == "choice.md"
    shown = Path(__file__).parents[2].joinpath(choice_page.PAGE).read_text(encoding="utf-8")
    assert shown == choice_page.page(), "run: python -m tests.plan.choice_page"
