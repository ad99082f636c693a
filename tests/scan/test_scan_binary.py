"""Real small binaries, built by ``data/build.sh``, and what is in them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from ongpu.domain.coverage import BinaryCoverage, Role, TargetCount
from ongpu.errors import UsageError
from ongpu.scan import scan_file
from ongpu.scan.binary import scan_reader
from ongpu.scan.reader import BytesReader, ForwardReader

DATA = Path(__file__).parent / "data"


def counts(rows: tuple[TargetCount, ...]) -> dict[str, int]:
    return {str(row.target): row.count for row in rows}


def scan_bytes(data: bytes, path: str = "file.so") -> BinaryCoverage:
    return scan_reader(BytesReader(data), path=path)


def forward(data: bytes, piece_bytes: int = 4096) -> ForwardReader:
    return ForwardReader(lambda: iter([data[i : i + piece_bytes] for i in range(0, len(data), piece_bytes)]), len(data))


def test_scan_container_with_every_kind_of_target() -> None:
    found = scan_file(DATA / "targets.fatbin")
    assert found.format == "fatbin"
    assert counts(found.sass) == {"sm_75": 1, "sm_90a": 1, "sm_100f": 1, "sm_120": 1}
    assert counts(found.ptx) == {"compute_120": 1, "compute_120f": 1}
    assert found.ptx_isa == "9.0"
    assert not found.outside
    assert not found.problems
    assert [group.count for group in found.groups] == [1]


@pytest.mark.parametrize("mode", ["none", "speed", "size"])
def test_scan_reads_headers_whatever_the_compression(mode: str) -> None:
    found = scan_file(DATA / f"compress_{mode}.fatbin")
    assert counts(found.sass) == {"sm_80": 1}
    assert counts(found.ptx) == {"compute_80": 1}
    assert not found.empty


def test_scan_concatenated_entries_are_read_by_their_members() -> None:
    data = (DATA / "concat.fatbin").read_bytes()
    assert b"\x00\x01\x01\x01" in data, "no entry of kind 256 in the file"
    found = scan_bytes(data, "concat.fatbin")
    assert counts(found.sass) == {"sm_75": 1, "sm_80": 1, "sm_86": 1, "sm_90": 1, "sm_100a": 1, "sm_120": 1}
    assert counts(found.ptx) == {"compute_75": 1}
    assert not found.problems


def test_scan_default_arch_dummy_is_known_to_be_empty() -> None:
    found = scan_file(DATA / "default_arch.fatbin")
    assert counts(found.sass) == {"sm_75": 1}
    assert counts(found.empty) == {"sm_75": 1, "compute_75": 1}
    assert all(not group.targets for group in found.groups)


@pytest.mark.parametrize("target", ["sm_75", "sm_90a", "sm_100a", "sm_100f", "sm_120"])
def test_scan_raw_cubin_with_suffix(target: str) -> None:
    found = scan_file(DATA / f"{target}.cubin")
    assert found.format == "cubin"
    assert counts(found.sass) == {target: 1}
    assert not found.empty


def test_scan_lto_is_neither_sass_nor_ptx() -> None:
    found = scan_file(DATA / "lto.fatbin")
    assert (counts(found.lto), counts(found.sass), found.ptx) == ({"lto_75": 1}, {"sm_80": 1}, ())


def test_scan_ptx_text() -> None:
    found = scan_file(DATA / "compute_103a.ptx")
    assert (found.format, counts(found.ptx), found.ptx_isa) == ("ptx", {"compute_103a": 1}, "9.0")


def test_scan_shared_library() -> None:
    found = scan_file(DATA / "library.so")
    assert found.format == "elf"
    assert counts(found.sass) == {"sm_80": 1, "sm_86": 1}
    assert not found.relocatable
    assert found.role is Role.RUNTIME


def test_scan_objects_and_archives_are_link_inputs() -> None:
    relocatable = scan_file(DATA / "relocatable.o")
    assert counts(relocatable.relocatable) == {"sm_80": 1}
    assert not relocatable.sass
    assert relocatable.role is Role.LINK_INPUT
    archive = scan_file(DATA / "archive.a")
    assert (archive.format, archive.role) == ("ar", Role.LINK_INPUT)
    assert counts(archive.relocatable) == {"sm_80": 2}
    assert not archive.targets


def test_scan_finds_what_no_section_announces_only_when_deep() -> None:
    found = scan_file(DATA / "outside.so")
    assert counts(found.outside) == {
        "sm_75": 1, "sm_90a": 2, "sm_100f": 1, "sm_120": 1, "compute_120": 1, "compute_120f": 1
    }  # fmt: skip
    assert counts(found.sass) == {"sm_75": 1, "sm_90a": 2, "sm_100f": 1, "sm_120": 1}
    shallow = scan_file(DATA / "outside.so", deep=False)
    assert not shallow.has_code
    assert not shallow.deep


@pytest.mark.parametrize("name", ["library.so", "outside.so", "host_only.so", "relocatable.o", "archive.a"])
@pytest.mark.parametrize("piece_bytes", [64, 1000, 1 << 20])
def test_scan_streamed_equals_random_access(name: str, piece_bytes: int) -> None:
    data = (DATA / name).read_bytes()
    streamed = scan_reader(forward(data, piece_bytes), path=name)
    assert streamed == scan_bytes(data, name)


def pe_file(sections: dict[bytes, bytes]) -> bytes:
    """A PE file of these sections, as small as the format allows."""
    header = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    header += struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(sections), 0, 0, 0, 0, 0x2022)
    at = (len(header) + 40 * len(sections) + 511) // 512 * 512
    table, body = b"", b""
    for name, data in sections.items():
        raw = (len(data) + 511) // 512 * 512
        table += struct.pack("<8sIIIIIIHHI", name, len(data), 0x1000, raw, at + len(body), 0, 0, 0, 0, 0x40000040)
        body += data.ljust(raw, b"\xcc")
    return (header + table).ljust(at, b"\0") + body


@pytest.mark.parametrize("gap_bytes", [0, 8, 24])
def test_scan_pe_sections_with_gaps(gap_bytes: int) -> None:
    container = (DATA / "targets.fatbin").read_bytes()
    relocatable = (DATA / "compress_none.fatbin").read_bytes()
    data = pe_file(
        {
            b".text": b"\x90" * 100,
            b".nv_fatb": container + bytes(gap_bytes) + container,
            b"__nv_rel": relocatable,
            b".cask_re": container,
        }
    )
    found = scan_bytes(data, "library.dll")
    assert found.format == "pe"
    assert counts(found.sass) == {"sm_75": 3, "sm_90a": 3, "sm_100f": 3, "sm_120": 3}
    assert counts(found.outside)["sm_75"] == 1
    assert counts(found.relocatable) == {"sm_80": 1, "compute_80": 1}
    assert scan_reader(forward(data), path="library.dll") == found


def test_scan_broken_container_in_a_section_is_a_problem_and_the_rest_is_read() -> None:
    container = (DATA / "targets.fatbin").read_bytes()
    broken = bytearray(container)
    broken[16 + 2] ^= 0xFF
    found = scan_bytes(pe_file({b".nv_fatb": bytes(broken) + container}), "library.dll")
    assert counts(found.sass) == {"sm_75": 1, "sm_90a": 1, "sm_100f": 1, "sm_120": 1}
    assert len(found.problems) == 1
    assert "impossible header" in found.problems[0]


def test_scan_container_longer_than_its_section_is_a_problem() -> None:
    container = (DATA / "targets.fatbin").read_bytes()
    found = scan_bytes(pe_file({b".nv_fatb": container[:-8]}), "library.dll")
    assert not found.sass
    assert "past" in found.problems[0]


def test_scan_rocm_is_named_and_not_judged() -> None:
    found = scan_bytes(pe_file({b".hip_fat": b"\0" * 64}), "library.dll")
    assert found.rocm
    assert not found.has_code


def test_scan_profiler_libraries_are_tools() -> None:
    assert scan_bytes((DATA / "outside.so").read_bytes(), "lib/libcupti.so.13").role is Role.TOOL
    assert scan_bytes((DATA / "outside.so").read_bytes(), "lib/libcheckpointing.so").role is Role.RUNTIME


def test_scan_zstd_frames_beside_code_are_reported_and_not_opened() -> None:
    frame = bytes.fromhex("28b52ffd2400") + b"\x01\x00\x00" + b"\0" * 4
    container = (DATA / "targets.fatbin").read_bytes()
    data = pe_file({b".nv_fatb": container, b".ldata": b"\0" * 32 + frame + b"\0" * 32 + frame})
    found = scan_bytes(data, "library.dll")
    assert [(one.section, one.frames, one.size_bytes) for one in found.opaque] == [(".ldata", 2, 2 * len(frame))]
    assert not scan_bytes(pe_file({b".ldata": frame}), "library.dll").opaque


def test_scan_missing_file_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        scan_file(DATA / "nothing.so")


def test_scan_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.so")
    with pytest.raises(UsageError, match="not a regular file"):
        scan_file(tmp_path / "pipe.so")


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ", b"!<arch>\n", b"plain text"])
def test_scan_tiny_inputs_end_well(data: bytes) -> None:
    assert not scan_bytes(data).has_code
