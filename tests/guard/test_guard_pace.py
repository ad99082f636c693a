"""What is written of a long run: closely at first, then ever less, and never more than the declared pace allows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.guard.pace import Allowance, Between, Pace

ROOT = Path(__file__).parents[2]
WEEK_S = 7 * 86_400.0


def test_a_week_of_quiet_readings_is_some_fifteen_hundred() -> None:
    pace, at, written = Pace(), 600.0, 0
    while at < WEEK_S:
        at += pace.kept_after_s(at)
        written += 1
    assert written < 1_600
    assert pace.kept_after_s(0) == pace.kept_after_s(2_400) == pace.kept_s


@given(st.lists(st.tuples(st.floats(0, 3600), st.integers(1, 100_000)), max_size=200))
def test_never_more_than_the_allowance_and_what_grew_back(writings: list[tuple[float, int]]) -> None:
    pace = Pace()
    allowance, now, written = Allowance(pace, now=0.0), 0.0, 0
    for wait_s, size in writings:
        now += wait_s
        if allowance.lasts(now):
            allowance.spend(size)
            written += size
    largest = max((size for _, size in writings), default=0)
    assert written <= pace.allowance_bytes + now * pace.refill_bytes_per_s + largest


def test_what_lies_between_two_lines_is_in_the_second() -> None:
    between = Between()

    def device(used: int, power: int | None) -> dict[str, Any]:
        return {"uuid": "GPU-1", "memory_used_bytes": used, "power_mw": power, "processes": []}

    between.take([device(5, 90)])
    assert between.tell([device(5, 90)]) == [device(5, 90)], "one reading says no more than itself"
    for used, power in ((7, 100), (3, None), (5, 80)):
        between.take([device(used, power)])
    assert between.readings == 3
    (told,) = between.tell([device(5, 80)])
    assert told["since"] == {"memory_used_bytes": [3, 7], "power_mw": [80, 100]}
    assert told["memory_used_bytes"] == 5 and between.readings == 0


@pytest.mark.process
def test_a_run_of_hours_is_judged_from_first_to_last() -> None:
    """The real sampler, hook, journal and checker, with a clock that is turned. A week: benchmarks/long_run.py."""
    argv = [sys.executable, str(ROOT / "benchmarks" / "long_run.py"), "--hours", "4", "--moving"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["outcome"], told["answer"], told["full"]) == ("proven", "accepted", False)
    assert told["journal_bytes"] < 16 << 20
    assert told["longest_silence_of_the_sampler_s"] < 15, "a supervisor would have given it up"
