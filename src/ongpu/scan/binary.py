"""One file's coverage, whatever its format: ELF, PE, ``ar``, raw cubin, raw fat binary, PTX text."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Final

from ongpu.domain.coverage import BinaryCoverage, Role
from ongpu.errors import UsageError
from ongpu.scan import elf, pe
from ongpu.scan.cubin import EM_CUDA, Cubin, read_cubin
from ongpu.scan.fatbin import CONTAINER_START, Container, Image
from ongpu.scan.reader import FileReader, ForwardReader, MalformedError, Reader
from ongpu.scan.sections import Section
from ongpu.scan.sweep import Broken, Found, Frame, Look, Text, sweep
from ongpu.scan.tally import Place, Tally

_EM_AMDGPU: Final = 224
_ET_REL: Final = 1
_EXECUTABLE: Final = frozenset({".nv_fatbin", ".nv_fatb"})
_RELOCATABLE: Final = frozenset({"__nv_relfatbin", "__nv_rel"})
_ROCM: Final = frozenset({".hip_fatbin", ".hip_fat"})
# Without `deep` nothing else is asked of a file, and most files have no such section.
_ANNOUNCING: Final = functools.partial(elf.read_sections, named=(b".nv_fatb", b"__nv_rel", b".hip_fat"))
_AR: Final = (b"!<arch>\n", b"!<thin>\n")
_PINNED_BEFORE_BYTES: Final = 64 << 10
_PTX_HEAD_BYTES: Final = 64 << 10
_PTX_VERSION: Final = re.compile(rb"^[ \t]*\.version[ \t]+(\d{1,2})\.(\d{1,2})", re.MULTILINE)
_PTX_TARGET: Final = re.compile(rb"^[ \t]*\.target[ \t]+sm_(\d{2,3})([af]?)\b", re.MULTILINE)
# Profiler libraries carry patch cubins for every GPU they know; no program's kernels are among them.
_TOOL: Final = re.compile(r"(lib)?(cupti|nvperf_host|nvperf_target|checkpoint|pcsamplingutil)([._\d-]|$)")


def scan_file(path: Path, *, deep: bool = True) -> BinaryCoverage:
    """The coverage of one file.

    :param deep: also search the loaded data outside the fat-binary sections; cuFFT, cuBLASLt, cuDNN and others
        keep code there that no section announces.
    :raises UsageError: when the file cannot be opened. Broken content is no error: it is in ``problems``.
    """
    try:
        with FileReader(path) as reader:
            return scan_reader(reader, path=str(path), deep=deep)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}.", next_step="Give a file that exists and is readable."
        ) from error


def scan_reader(reader: Reader, *, path: str, deep: bool = True) -> BinaryCoverage:
    """The coverage of the bytes behind ``reader``; ``path`` is a label, and its suffix tells PTX text.

    A :class:`ForwardReader` is swept in one pass, and its section table, which comes late, is asked afterwards
    where everything lay.
    """
    tally = Tally()
    role = Role.TOOL if _TOOL.match(PurePath(path).name) else Role.RUNTIME
    file_format, rocm = "other", False
    try:
        head = reader.read_at(0, 64)
        if head.startswith(b"\x7fELF"):
            machine = int.from_bytes(head[18:20], "little")
            if machine == EM_CUDA:
                file_format = "cubin"
                _scan_cubins(reader, tally)
            elif machine == _EM_AMDGPU:
                file_format, rocm = "elf", True
            else:
                file_format = "elf"
                header = elf.Header(head)
                role = Role.LINK_INPUT if header.kind == _ET_REL else role
                if isinstance(reader, ForwardReader):
                    # The names of the sections lie just before their table, and other data may follow both.
                    reader.pin(header.table_at - _PINNED_BEFORE_BYTES, _PINNED_BEFORE_BYTES + header.sections * 64)
                rocm = _scan_sections(reader, tally, elf.read_sections if deep else _ANNOUNCING, deep=deep)
        elif head.startswith(b"MZ"):
            file_format = "pe"
            rocm = _scan_sections(reader, tally, pe.read_sections, deep=deep)
        elif head.startswith(_AR):
            file_format, role = "ar", Role.LINK_INPUT
            _count(
                tally,
                sweep(reader, 8, reader.size, look=Look.TEXTS, alignment=2),
                Place.RELOCATABLE,
            )
        elif head.startswith(CONTAINER_START):
            file_format = "fatbin"
            _count(tally, sweep(reader, 0, reader.size), Place.SECTION)
        elif path.endswith(".ptx"):
            file_format = "ptx"
            _scan_ptx(reader, tally)
    except MalformedError as error:
        tally.problem(str(error))
    return tally.coverage(path=path, file_format=file_format, size_bytes=reader.size, role=role, rocm=rocm, deep=deep)


def _scan_sections(
    reader: Reader,
    tally: Tally,
    read_sections: Callable[[Reader], tuple[Section, ...]],
    *,
    deep: bool,
) -> bool:
    """Count everything in the right place; returns whether there is a ROCm section."""
    if isinstance(reader, ForwardReader):
        found: list[Found] = []
        ranges = elf.data_ranges(reader) if reader.read_at(0, 4) == b"\x7fELF" else ((0, reader.size),)
        for start, end in ranges:
            code = any(isinstance(one, Container) for one in found)
            look = Look.CUBINS | Look.TEXTS | (Look.FRAMES if code else Look.FRAMES_AFTER_CODE)
            found.extend(sweep(reader, start, end, look=look))
        sections = read_sections(reader)
        _place(tally, found, sections, deep=deep)
        return any(section.name in _ROCM for section in sections)
    sections = read_sections(reader)
    for section in sections:
        place = _place_of(section)
        if place is not None:
            found_here = sweep(reader, section.offset, section.end)
            _count(tally, found_here, place)
    if deep:
        # Frames are looked for where there is CUDA code beside them; elsewhere zstd data is nobody's kernel.
        look = Look.CUBINS | Look.TEXTS | (Look.FRAMES if tally.found_code else Look.CONTAINERS)
        for section in sections:
            if section.data and _place_of(section) is None:
                found_here = sweep(reader, section.offset, section.end, look=look)
                _count(tally, found_here, Place.OUTSIDE, section=section.name)
    return any(section.name in _ROCM for section in sections)


def _place_of(section: Section) -> Place | None:
    if section.name in _EXECUTABLE:
        return Place.SECTION
    return Place.RELOCATABLE if section.name in _RELOCATABLE else None


def _place(tally: Tally, found: list[Found], sections: tuple[Section, ...], *, deep: bool) -> None:
    """Count what a single pass found, by the section it lay in; code and unloaded sections hold no images."""
    ordered = sorted(sections, key=lambda section: section.offset)
    index = 0
    code_somewhere = any(isinstance(one, Container) for one in found)
    for one in found:
        while index < len(ordered) and ordered[index].end <= one.offset:
            index += 1
        section = ordered[index] if index < len(ordered) and ordered[index].offset <= one.offset else None
        if section is None:
            continue
        place = _place_of(section)
        if place is not None and isinstance(one, Container | Broken):
            _count(tally, iter((one,)), place)
        elif place is None and section.data and deep and (code_somewhere or not isinstance(one, Frame)):
            _count(tally, iter((one,)), Place.OUTSIDE, section=section.name)


def _count(tally: Tally, found: Iterator[Found], place: Place, *, section: str = "") -> None:
    for one in found:
        if isinstance(one, Container):
            tally.add(one.images, place)
            for text in one.problems:
                tally.problem(text)
        elif isinstance(one, Cubin):
            tally.add({one.image: 1}, place)
        elif isinstance(one, Text):
            tally.add_text(one.image)
        elif isinstance(one, Frame):
            tally.opaque(section, one.end - one.offset)
        elif place is not Place.OUTSIDE:
            tally.problem(one.reason)


def _scan_cubins(reader: Reader, tally: Tally) -> None:
    cubin = read_cubin(reader.read_at, 0, reader.size)
    tally.add({cubin.image: 1}, Place.SECTION)


def _scan_ptx(reader: Reader, tally: Tally) -> None:
    """PTX text: ``.version 9.0`` and ``.target sm_103a``, in this order before anything else."""
    head = reader.read_at(0, _PTX_HEAD_BYTES)
    version, target = _PTX_VERSION.search(head), _PTX_TARGET.search(head)
    if version is None or target is None:
        raise MalformedError("no .version and .target line: not PTX text")
    isa = (int(version[1]), int(version[2]))
    tally.add(Counter([Image("compute", int(target[1]), target[2].decode(), isa)]), Place.SECTION)
