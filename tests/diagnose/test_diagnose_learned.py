"""The last stage: what the words of a log went with in logs with a known cause."""

import pytest

from ongpu.catalog.learned import LearnedWords, load_learned, parse_learned
from ongpu.catalog.terms import load_terms
from ongpu.diagnose.learned import Learned, learned, words_of
from ongpu.diagnose.likely import speaking
from ongpu.diagnose.match import Hit
from ongpu.domain.verdict import Cause

_MODEL = LearnedWords(
    before=dict.fromkeys(Cause, 0.0),
    weights={
        "reed jammed": {Cause.HARDWARE_FAULT: 8.0},
        "jammed": {Cause.HARDWARE_FAULT: 4.0, Cause.DEVICE_BUSY: 1.0},
        "reed": {Cause.HARDWARE_FAULT: 1.0},
        "the": {Cause.PROGRAM_ERROR: 0.5},
        "spindle": {Cause.HEALTHY: 16.0},
        "error": {Cause.PROGRAM_ERROR: 0.5},
        "hums": {Cause.OUT_OF_MEMORY: 9.0, Cause.DEVICE_BUSY: 9.0, Cause.PYTHON_ENV: 9.0},
        "slowly": {Cause.SILENT_CPU: 16.0},
    },
)


def _learned(*texts: str) -> Learned | None:
    hits = [Hit(number, text.encode()) for number, text in enumerate(texts, 1)]
    return learned(speaking(hits, load_terms()), _MODEL)


def test_a_cause_is_named_with_the_words_that_spoke_and_their_lines() -> None:
    found = _learned("the spool is full", "error: the Reed jammed")
    assert found is not None
    assert found.cause is Cause.HARDWARE_FAULT
    assert found.words == ("reed jammed", "jammed", "reed")
    assert [hit.line for hit in found.hits] == [2]
    assert 0.35 <= found.share < 1


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("the reed jammed", id="nothing failed"),
        pytest.param("error: the reed jammed spindle", id="words of healthy logs"),
        pytest.param("broke error: the", id="too few words it knows"),
        pytest.param("error: the reed hums", id="none well above the others"),
    ],
)
def test_no_cause_is_named(line: str) -> None:
    assert _learned(line) is None


def test_a_run_on_the_cpu_needs_no_failure() -> None:
    found = _learned("the reed jammed, but goes on slowly")
    assert found is not None
    assert found.cause is Cause.SILENT_CPU


def test_words_are_read_without_their_digits() -> None:
    assert words_of("sm_89 is x of 12 looms") == {"sm_00", "looms", "sm_00 looms"}


def test_the_shipped_words_are_a_model_of_every_cause() -> None:
    model = load_learned()
    assert set(model.before) == set(Cause)
    assert len(model.weights) > 1000
    assert {cause for given in model.weights.values() for cause in given} == set(Cause)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word,weight\n", "columns"),
        ("words,weights\nLoom,healthy 1\n", "row 2"),
        ("words,weights\nloom,tired 1\n", "row 2"),
        ("words,weights\nloom,healthy\n", "row 2"),
        ("words,weights\nloom,healthy 1\nloom,healthy 1\n", "row 3"),
        ("words,weights\nloom,healthy 1\n", "every cause"),
    ],
)
def test_a_wrong_row_is_refused_by_number(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_learned(text.encode())
