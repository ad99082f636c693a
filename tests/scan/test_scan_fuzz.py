"""Mutated input ends as a coverage. A million of them are run by ``benchmarks/scan_fuzz.py``; this is the watch."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu.errors import UsageError
from ongpu.scan import scan_wheel
from ongpu.scan.binary import scan_reader
from ongpu.scan.reader import BytesReader, ForwardReader

SEEDS = {path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "data").iterdir()) if path.is_file()}


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(SEEDS)),
    st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=8)), max_size=6),
    st.integers(0, 2**16),
)
def test_scan_mutated_files_end_as_coverage(name: str, changes: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(SEEDS[name])
    for at, new in changes:
        place = at % len(data)
        data[place : place + len(new)] = new
    held = bytes(data[: max(1, len(data) - cut)])
    whole = scan_reader(BytesReader(held), path=name)
    streamed = scan_reader(ForwardReader(lambda: iter([held]), len(held)), path=name)
    assert whole.format == streamed.format
    for count in (*whole.sass, *whole.ptx, *whole.relocatable):
        assert count.count > 0


def _wheel() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("library.so", "concat.fatbin", "archive.a"):
            archive.writestr(f"p\u00e4ckage/{name}", SEEDS[name])
    return held.getvalue()


WHEEL = _wheel()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(8, 420), st.binary(min_size=1, max_size=4)), min_size=1, max_size=5),
    st.sampled_from(["start", "end"]),
)
def test_scan_mutated_wheels_end_as_coverage_or_as_one_message(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], where: str
) -> None:
    data = bytearray(WHEEL)
    for at, new in changes:
        place = len(data) - at if where == "end" else at
        data[place : place + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "mutated.whl"
    path.write_bytes(bytes(data))
    try:
        found = scan_wheel(path)
    except UsageError as error:
        assert error.next_step
    else:
        assert all(one.has_code or one.problems for one in found)


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x7fELF\x02\x01\x01", b"MZ", b"!<arch>\n", b"\x50\xed\x55\xba"])
)
def test_scan_noise_ends_as_coverage(noise: bytes, start: bytes) -> None:
    found = scan_reader(BytesReader(start + noise), path="noise.so")
    assert found.size_bytes == len(start + noise)


def test_scan_containers_in_containers_that_all_fail_at_the_end() -> None:
    """Each of these beginnings walks to the end and fails there: without a budget the time would be squared."""
    count = 20_000
    entry = bytes.fromhex("0200010140000000") + (16).to_bytes(8, "little") + bytes(48)
    size = count * 80
    parts = []
    for index in range(count):
        left = size - 80 * (index + 1) + 8
        parts.append(entry + b"\x50\xed\x55\xba\x01\x00\x10\x00" + left.to_bytes(8, "little"))
    data = b"\x50\xed\x55\xba\x01\x00\x10\x00" + (size + 8).to_bytes(8, "little") + b"".join(parts) + bytes(8)
    found = scan_reader(BytesReader(data), path="hostile.fatbin")
    assert any("search ends here" in text for text in found.problems)
