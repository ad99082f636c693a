"""Work that goes on, told by the shape of its lines alone."""

import pytest

from ongpu.diagnose import Sure, diagnose
from ongpu.diagnose.match import Hit
from ongpu.diagnose.running import runs_on
from ongpu.domain.verdict import Cause

# A program that does not exist: no word of it is known.
_WEAVING = [f"10:00:{row:02d} row {row} of 900, tension {1.5 - row / 10:.2f}" for row in range(1, 5)]


def _lines(*texts: str) -> list[Hit]:
    return [Hit(number, text.encode()) for number, text in enumerate(texts, 1)]


def test_numbers_that_run_on_to_the_end_are_work() -> None:
    assert [hit.line for hit in runs_on(_lines("weaving", *_WEAVING, "saved"))] == [3, 4, 5]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(_WEAVING[:2], id="two lines only"),
        pytest.param([*_WEAVING, "a", "b", "c"], id="other lines at the end"),
        pytest.param(["row 4 of 900, tension 1.50"] * 4, id="nothing runs"),
        pytest.param([f"row {row}" for row in range(4)], id="nothing is measured"),
        pytest.param([f"waiting {row} of 9, {row}.5 s" for row in range(4)], id="waiting"),
        pytest.param([f"10:00:{row:02d}.125 the heddle hums, 2 of 3" for row in range(4)], id="only the time runs"),
        pytest.param([], id="empty"),
    ],
)
def test_what_is_no_work(lines: list[str]) -> None:
    assert runs_on(_lines(*lines)) == ()


def test_it_is_healthy_only_where_nothing_failed() -> None:
    found = diagnose("\n".join(_WEAVING).encode())
    assert (found.cause, found.sure) == (Cause.HEALTHY, Sure.INFERRED)
    assert [finding.line for finding in found.findings] == [4, 3, 2]
    assert found.question
    assert diagnose("\n".join(["error: a heddle broke", *_WEAVING]).encode()).cause is not Cause.HEALTHY
