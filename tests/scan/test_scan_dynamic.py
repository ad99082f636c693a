"""What a library asks of the loader, read from real files and from broken ones."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ongpu.scan.dynamic import read_dynamic, read_symbols
from ongpu.scan.reader import BytesReader, MalformedError

LIBRARY = (Path(__file__).parent / "data" / "library.so").read_bytes()


def test_a_real_library() -> None:
    asks = read_dynamic(BytesReader(LIBRARY))
    assert "libc.so.6" in asks.needed
    symbols = read_symbols(BytesReader(LIBRARY))
    assert symbols is not None
    assert "__cudaRegisterFatBinary" in symbols.defined | symbols.undefined


@given(st.lists(st.tuples(st.integers(0, len(LIBRARY) - 1), st.binary(min_size=1, max_size=8)), max_size=6), st.data())
def test_a_broken_library_is_malformed_and_no_more(edits: list[tuple[int, bytes]], data: st.DataObject) -> None:
    broken = bytearray(LIBRARY)
    for at, put in edits:
        broken[at : at + len(put)] = put
    # Most of what decides lies in the header, the segments and the dynamic section.
    for at in data.draw(st.lists(st.integers(0, 1024), max_size=4)):
        broken[at] = data.draw(st.integers(0, 255))
    cut = bytes(broken[: data.draw(st.sampled_from([len(broken), 64, 200, 2000, len(broken) // 2]))])
    for read in (read_dynamic, read_symbols):
        with contextlib.suppress(MalformedError):
            read(BytesReader(cut))
