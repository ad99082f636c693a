"""The second stage: what the words of a log speak for, where no rule knows its lines."""

import pytest

from ongpu.catalog.terms import load_terms, parse_terms
from ongpu.diagnose import Sure, diagnose
from ongpu.diagnose.likely import SpeakingLine, likely, speaking
from ongpu.diagnose.match import Hit
from ongpu.domain.verdict import Cause

_STEPS = "".join(f"step {number} loss {3 - number / 10:.2f}\n" for number in range(1, 8))
# Programs that do not exist: no rule can know their outputs.
_UNKNOWN = "spindle: fatal: the frobnicator could not load libcublas 9 which it was linked against\n"


def _lines(*texts: str) -> list[SpeakingLine]:
    hits = [Hit(number, text.encode()) for number, text in enumerate(texts, 1)]
    return speaking(hits, load_terms(), hypothetical=["if you get "])


def test_a_cause_named_by_its_words_says_so() -> None:
    found = diagnose(f"starting\n{_UNKNOWN}".encode())
    assert found.cause is Cause.CUDA_VERSION_MISMATCH
    assert found.sure is Sure.INFERRED
    assert found.reason.startswith("no rule knows this output; its words are those of cuda-version-mismatch")
    assert found.findings[0].line == 2
    assert found.findings[0].text == _UNKNOWN.strip()
    assert found.question


def test_the_cause_that_comes_next_is_told() -> None:
    told = likely(_lines("error: out of memory", "error: keyerror in the loom"), load_terms())
    assert told is not None
    assert (told.cause, told.next_cause) == (Cause.OUT_OF_MEMORY, Cause.PROGRAM_ERROR)
    assert told.next_told is not None
    assert told.next_told.hit.line == 2


@pytest.mark.parametrize(
    "log",
    [
        pytest.param("spindle: everything about libcublas is well\n", id="nothing failed"),
        pytest.param("if you get an error about libcublas, reinstall it\n", id="it only supposes"),
        pytest.param("error: libcublas is missing, and dkms too\n", id="two causes, no margin"),
        pytest.param("error: the loom is out of thread\n", id="no word of any cause"),
        pytest.param("", id="empty"),
    ],
)
def test_no_cause_is_named_without_words_that_speak_clearly(log: str) -> None:
    assert likely(_lines(*log.splitlines()), load_terms()) is None


def test_training_that_went_on_is_not_called_broken() -> None:
    found = diagnose(f"Using device: cuda\n{_UNKNOWN}{_STEPS}".encode())
    assert found.cause is Cause.HEALTHY
    assert diagnose(f"{_UNKNOWN}{_STEPS}".encode()).cause is not Cause.CUDA_VERSION_MISMATCH


def test_a_remark_of_a_log_library_is_no_failure() -> None:
    remark = "2026-01-01 10:00:00.000001: W loom/spindle.cc:85] could not launch ptxas, going on without"
    assert likely(_lines(remark), load_terms()) is None


def test_lines_far_from_the_end_do_not_count() -> None:
    filler = "".join(f"thread {number} of the loom\n" for number in range(300))
    assert diagnose(f"{_UNKNOWN}{filler}".encode()).cause is Cause.UNDETERMINED
    assert diagnose(f"{filler}{_UNKNOWN}".encode()).findings[0].line == 301


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ('id = "a"\nwords = [["Upper"]]\nspeaks_for = { out-of-memory = 1 }\nreason = "r"', "lower-case"),
        ('id = "a"\nwords = [[]]\nspeaks_for = { out-of-memory = 1 }\nreason = "r"', "lower-case"),
        ('id = "a"\nwords = [["x"]]\nspeaks_for = { out-of-memory = 9 }\nreason = "r"', "weight"),
        ('id = "a"\nwords = [["x"]]\nspeaks_for = { healthy = 1 }\nreason = "r"', "speak for a cause"),
        ('id = "a"\nwords = [["x"]]\nspeaks_for = { out-of-memory = 1 }', "needs"),
    ],
)
def test_a_wrong_term_is_refused_by_name(term: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_terms(f'failing = ["error"]\nempty = ["x"]\n[[term]]\n{term}\n'.encode())
