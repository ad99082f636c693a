"""Properties: any bytes are answered, cutting the input changes nothing, the answer is made of the log's own lines."""

import itertools
from collections.abc import Iterator

import hypothesis.strategies as st
from hypothesis import given, settings

from ongpu.catalog.causes import load_causes
from ongpu.diagnose import Sure, diagnose
from ongpu.diagnose.facts import FactReader
from ongpu.diagnose.match import RuleIndex, scan
from ongpu.diagnose.text import blocks, clean
from ongpu.domain.verdict import Cause

_SAMPLES = [rule.made_for for rule in load_causes().rules]
_LINES = st.lists(st.one_of(st.sampled_from(_SAMPLES), st.text(max_size=60)), max_size=12)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=400))
def test_any_bytes_are_answered(data: bytes) -> None:
    found = diagnose(data)
    assert found.next_step
    assert (found.cause is Cause.UNDETERMINED) == (found.sure is Sure.UNDETERMINED)


@settings(deadline=None, max_examples=40)
@given(_LINES, st.integers(min_value=1, max_value=50))
def test_cutting_the_input_changes_nothing(lines: list[str], size: int) -> None:
    data = "\n".join(lines).encode("utf-8", "replace")
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    assert diagnose(parts) == diagnose(data)


@settings(deadline=None, max_examples=40)
@given(_LINES)
def test_a_cause_is_never_among_the_rejected_and_findings_are_lines(lines: list[str]) -> None:
    lines = [line.replace("\r", " ").replace("\n", " ").replace("\x00", " ") for line in lines]
    found = diagnose("\n".join(lines).encode("utf-8", "replace"))
    assert found.cause not in {one.cause for one in found.rejected}
    assert all(1 <= finding.line <= max(len(lines), 1) for finding in found.findings)


def test_memory_is_bounded_where_every_line_is_new() -> None:
    def parts() -> Iterator[bytes]:
        for number in range(60_000):
            letters = "".join(chr(97 + number // 26**place % 26) for place in range(5))
            yield f"cuda {letters} memory driver {letters}\n".encode()

    signals = scan(parts(), RuleIndex(load_causes().rules))
    assert signals.lines == 60_000
    assert all(len(signal.hits()) <= 440 for signal in signals.fired.values())


def test_an_endless_line_of_hostile_text_is_read_in_pieces() -> None:
    hostile = itertools.repeat(b"driver version " * 200 + b"\x1b]" * 50, 400)
    assert diagnose(hostile).cause is Cause.UNDETERMINED
    reader = FactReader()
    reader.read(b"torch " * 700)
    reader.read(b"NVIDIA GeForce RTX " * 200)
    assert reader.facts().torch_versions == ()


def test_blocks_keep_every_byte_of_plain_text() -> None:
    data = b"".join(b"line %d\n" % number for number in range(3000))
    assert b"".join(piece + b"\n" for block in blocks([data]) for piece in block.pieces) == data
    assert clean(b"plain") == b"plain"
