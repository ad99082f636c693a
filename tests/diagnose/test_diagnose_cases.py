"""The cases: logs with their cause, each with how it was provoked or where its text is from."""

import collections
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ongpu.diagnose import Sure, diagnose
from ongpu.domain.verdict import Cause

_FOLDER = Path(__file__).parent / "cases"
_CASES: list[dict[str, Any]] = [
    case for path in sorted(_FOLDER.glob("*.toml")) for case in tomllib.loads(path.read_text("utf-8"))["case"]
]


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["id"])
def test_case(case: dict[str, Any]) -> None:
    found = diagnose(case["log"].encode())
    assert found.cause.value == case["cause"], (found.reason, found.findings, found.rejected)
    assert found.next_step
    lines = case["log"].split("\n")
    for finding in found.findings:
        start = finding.text.removesuffix("...")[:40].strip()
        assert start.split()[0] in lines[finding.line - 1]
    if found.sure is not Sure.DECISIVE and found.cause is not Cause.HEALTHY:
        assert found.question


def test_the_cases_are_many_enough_for_every_cause() -> None:
    assert len({case["id"] for case in _CASES}) == len(_CASES) >= 150
    by_cause = collections.Counter(case["cause"] for case in _CASES)
    assert {cause.value: by_cause[cause.value] for cause in Cause if by_cause[cause.value] < 6} == {}
    hard = sum(case["kind"] in {"multi", "misleading"} for case in _CASES)
    assert hard * 3 >= len(_CASES)
    assert {case["kind"] for case in _CASES} == {"plain", "multi", "misleading"}
    assert all(case["how"] and case["basis"] for case in _CASES)


@pytest.mark.parametrize("case", _CASES[::11], ids=lambda case: case["id"])
def test_a_case_keeps_its_cause_in_other_clothes(case: dict[str, Any]) -> None:
    log = case["log"]
    noise = "".join(f"2025-11-22T10:00:{second:02d}Z INFO heartbeat {second}\n" for second in range(60))
    for data in (
        log.replace("\n", "\r\n").encode("utf-16"),
        (noise + log).encode(),
        "".join(f"\x1b[33m{line}\x1b[0m\n" for line in log.split("\n")).encode(),
        "".join(f"2025-11-22T10:00:00.1234567Z {line}\n" for line in log.split("\n")).encode(),
    ):
        assert diagnose(data).cause.value == case["cause"]
