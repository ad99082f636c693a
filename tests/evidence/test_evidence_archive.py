"""Zip files as bundles: an honest one is read as the folder is, an evil one is refused and nothing is written."""

from __future__ import annotations

import io
import shutil
import stat
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.evidence.archive import ArchiveError, Limits, is_plain, read_bundle
from ongpu.evidence.check import Answer

if TYPE_CHECKING:
    from tests.evidence.conftest import Samples


def packed(members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_info(edit: Callable[[zipfile.ZipInfo], None], name: str = "a.txt") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(name)
        edit(info)
        archive.writestr(info, b"x")
    return buffer.getvalue()


def unix_mode(mode: int) -> Callable[[zipfile.ZipInfo], None]:
    def edit(info: zipfile.ZipInfo) -> None:
        info.create_system = 3
        info.external_attr = mode << 16

    return edit


def doubled() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.txt", b"2")
    return buffer.getvalue()


def encrypted() -> bytes:
    data = bytearray(packed({"a.txt": b"x"}))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    return bytes(data)


def overlapping() -> bytes:
    """Two entries in the list of members that name one and the same bytes."""
    data = packed({"a.txt": b"x" * 100, "b.txt": b"y" * 100}, method=zipfile.ZIP_STORED)
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    return data[: second + 42] + struct.pack("<L", 0) + data[second + 46 :]


def nul_name() -> bytes:
    return packed({"a.txtXb": b"x"}).replace(b"a.txtXb", b"a.txt\x00b")


def lying_size() -> bytes:
    data = bytearray(packed({"a.txt": b"x" * 1000}))
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<L", 10)
    return bytes(data)


def million() -> bytes:
    """An end record that promises little and a list of members that is long."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 6, *[0] * 3, 1, 0, 0, 0, 0, 0, 0) + b"a"
    entries = entry * 200_000
    return entries + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entries), 0, 0)


EVIL: dict[str, tuple[int, Callable[[], bytes]]] = {
    "bomb": (1, lambda: packed({"training_log.txt": b"\0" * (64 << 20)})),
    "too large": (1, lambda: packed({f"f{n}": bytes(range(256)) * 8192 for n in range(3)}, method=zipfile.ZIP_STORED)),
    "many entries": (1, lambda: packed({f"f{n}": b"" for n in range(70)})),
    "very many entries": (1, lambda: packed({f"f{n}": b"" for n in range(60_000)})),
    "entries not counted": (1, million),
    "parent": (2, lambda: packed({"../a.txt": b"x"})),
    "deep parent": (2, lambda: packed({"a/../../a.txt": b"x"})),
    "absolute": (2, lambda: packed({"/etc/a.txt": b"x"})),
    "drive": (2, lambda: packed({"C:a.txt": b"x"})),
    "backslash": (2, lambda: packed({"a\\b.txt": b"x"})),
    "NUL": (2, nul_name),
    "dot": (2, lambda: packed({"./a.txt": b"x"})),
    "double slash": (2, lambda: packed({"a//b.txt": b"x"})),
    "hidden": (2, lambda: packed({".git/config": b"x"})),
    "trailing dot": (2, lambda: packed({"a.txt.": b"x"})),
    "device name": (2, lambda: packed({"CON": b"x"})),
    "non-ASCII": (2, lambda: packed({"\u00e4.txt": b"x", "a\u0308.txt": b"y"})),
    "bidi": (2, lambda: packed({"a\u202etxt.exe": b"x"})),
    "case twins": (2, lambda: packed({"a.txt": b"x", "A.TXT": b"y"})),
    "twice a name": (2, doubled),
    "empty folder": (2, lambda: packed({"a.txt": b"x", "sub/": b""})),
    "file and folder": (2, lambda: packed({"a": b"x", "a/": b"y"})),
    "too deep": (2, lambda: packed({"a/b/c/d/e/f": b"x", "g": b""})),
    "symlink": (3, lambda: with_info(unix_mode(stat.S_IFLNK | 0o777))),
    "device": (3, lambda: with_info(unix_mode(stat.S_IFCHR | 0o666))),
    "fifo": (3, lambda: with_info(unix_mode(stat.S_IFIFO | 0o666))),
    "folder that is a file": (3, lambda: with_info(unix_mode(stat.S_IFDIR | 0o755))),
    "encrypted": (3, encrypted),
    "bzip2": (3, lambda: packed({"a.txt": b"x"}, method=zipfile.ZIP_BZIP2)),
    "lzma": (3, lambda: packed({"a.txt": b"x"}, method=zipfile.ZIP_LZMA)),
    "overlap": (1, overlapping),
    "lying size": (1, lying_size),
    "wrong sum": (1, lambda: packed({"a.txt": b"hello"}, method=zipfile.ZIP_STORED).replace(b"hello", b"hallo")),
    "prefix": (1, lambda: b"#!/bin/sh\n" + packed({"a.txt": b"x"})),
    "suffix": (1, lambda: packed({"a.txt": b"x"}) + b"more"),
    "comment": (1, lambda: packed({"a.txt": b"x"})[:-2] + b"\x04\x00more"),
    "truncated": (1, lambda: packed({"a.txt": b"x"})[:-30]),
    "tar": (1, lambda: b"\0" * 10240),
    "empty": (1, lambda: b""),
    "zip in zip only": (7, lambda: packed({"bundle.zip": packed({"manifest.json": b"{}"})})),
}


@pytest.mark.parametrize("name", EVIL)
def test_evil_zips(name: str, samples: Samples) -> None:
    obligation, make = EVIL[name]
    path = samples.root / "evil.zip"
    path.write_bytes(make())
    report = samples.check(path, limits=Limits(total_bytes=4 << 20))
    assert report.answer is Answer.REFUSED
    assert [one.obligation for one in report.problems] == [obligation]
    assert [one.name for one in samples.root.iterdir()] == ["evil.zip"], "nothing is ever extracted"


def test_the_honest_zip_is_read_as_its_folder(samples: Samples) -> None:
    folder = samples.bundle("a", signed=True, more={"attachments/note.txt": "x"})
    expected = read_bundle(folder)
    flat = shutil.make_archive(str(samples.root / "flat"), "zip", folder)
    with_folder = shutil.make_archive(str(samples.root / "whole"), "zip", samples.root, "a")
    for path in (flat, with_folder):
        assert read_bundle(Path(path)).files == expected.files
        report = samples.check(Path(path), trust=[samples.trust])
        assert (report.answer, report.level) == (Answer.ACCEPTED, "A1")


def test_reading_is_bounded_in_time(samples: Samples) -> None:
    folder = samples.bundle("a")
    ticks = iter(range(0, 1000, 5))
    with pytest.raises(ArchiveError, match="took more than 8 s") as caught:
        read_bundle(folder, clock_s=lambda: float(next(ticks)))
    assert caught.value.obligation == 1
    assert read_bundle(folder, clock_s=time.monotonic).files


def test_a_huge_folder_is_left_early(samples: Samples) -> None:
    folder = samples.root / "huge"
    folder.mkdir()
    for number in range(3000):
        (folder / f"f{number}").touch()
    assert [one.obligation for one in samples.check(folder).problems] == [1]


@given(st.text(max_size=30) | st.from_regex(r"\A[\w./\\ -]{1,30}\Z"))
def test_plain_names_are_one_name_everywhere(name: str) -> None:
    if is_plain(name):
        assert name.isascii()
        assert not set(name) & set('\\:*?"<>|\0 ')
        assert all(part and part[0] != "." and part[-1] != "." for part in name.split("/"))


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise_anything_else(data: bytes) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.zip"
        path.write_bytes(data)
        with pytest.raises(ArchiveError):
            read_bundle(path)
