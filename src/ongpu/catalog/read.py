"""Reading a table of the catalog: every broken cell is named by file and line."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import TypeVar

from ongpu.catalog.rows import (
    BranchRow,
    CompanionRow,
    GenerationRow,
    GlibcRow,
    GpuRow,
    RetiredRow,
    ToolkitRow,
    Version,
)
from ongpu.domain.arch import CodeTarget, ComputeCapability, RuntimeVersion
from ongpu.domain.build import TorchBuild
from ongpu.errors import WorkError

_Row = TypeVar("_Row")
_GIB = 1 << 30
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z")
_TORCH = re.compile(r"\d+\.\d+\.\d+(\.dev)?\Z")
_TAG = re.compile(r"cu\d{3}\Z|cpu\Z")
_PYTHON = re.compile(r"3\.\d{1,2}t?\Z")


class CatalogError(WorkError):
    """A fact of the catalog is broken; the message names file and line."""

    def __init__(self, message: str) -> None:
        super().__init__(message, next_step="Reinstall ongpu, or mend the named row.")


def table_text(name: str) -> str:
    """The text of one shipped table, for example ``builds.csv``."""
    return (resources.files("ongpu.catalog") / name).read_text(encoding="utf-8")


def parse(text: str, *, file: str, make: Callable[[Mapping[str, str]], _Row]) -> tuple[_Row, ...]:
    """Read every row of a table.

    :param file: the name for messages.
    :param make: turns one row of text into a value; it raises :class:`ValueError` or :class:`KeyError`.
    :raises CatalogError: naming file and line.
    """
    return tuple(_rows(text, file=file, make=make))


def _rows(text: str, *, file: str, make: Callable[[Mapping[str, str]], _Row]) -> Iterator[_Row]:
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        header = next(reader)
        for cells in reader:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} cells where the header has {len(header)}")
            row = dict(zip(header, cells, strict=True))
            if not row["source"].strip():
                raise ValueError("no source")
            if not _DATE.match(row["checked"]):
                raise ValueError(f"checked {row['checked']!r} is not a date")
            yield make(row)
    except StopIteration:
        raise CatalogError(f"{file} is empty.") from None
    except KeyError as missing:
        raise CatalogError(f"{file}, line {reader.line_num}: there is no column {missing}.") from missing
    except (ValueError, csv.Error) as wrong:
        raise CatalogError(f"{file}, line {reader.line_num}: {wrong}.") from wrong


def version(text: str) -> Version:
    """``(580, 95, 5)`` for ``"580.95.05"``. Raises :class:`ValueError` naming the text."""
    if not re.match(r"\d+(\.\d+)*\Z", text):
        raise ValueError(f"{text!r} is not a version")
    return tuple(int(part) for part in text.split("."))


@functools.cache
def targets(text: str) -> tuple[CodeTarget, ...]:
    """``sm_75 sm_80 compute_80`` as code targets, in the order given."""
    return tuple(CodeTarget.parse(one) for one in text.split())


def build_row(row: Mapping[str, str]) -> TorchBuild:
    """One row of ``builds.csv``."""
    pythons = tuple(row["pythons"].split())
    return TorchBuild(
        torch=_matching(row["torch"], _TORCH, "a torch release"),
        channel=_one_of(row["channel"], "stable", "nightly"),
        cuda_tag=_matching(row["cuda_tag"], _TAG, "a CUDA tag"),
        os=_one_of(row["os"], "linux", "windows"),
        arch=_one_of(row["arch"], "x86_64", "aarch64"),
        pythons=tuple(_matching(one, _PYTHON, "a Python tag") for one in pythons),
        targets=targets(f"{row['sass']} {row['ptx']}"),
        pypi_default=_one_of(row["pypi_default"], "yes", "no") == "yes",
        source=row["source"],
        evidence=_one_of(row["evidence"], "binary", "script", "report", "inferred"),
        publication=_one_of(row["publication"], "seen", "stated", "unprobed", "unverified"),
        checked=row["checked"],
    )


def gpu_row(row: Mapping[str, str]) -> GpuRow:
    """One row of ``gpus.csv``."""
    if not row["name"].strip():
        raise ValueError("no name")
    return GpuRow(
        name=row["name"],
        compute_capability=ComputeCapability.parse(row["compute_capability"]),
        kind=row["class"],
        memory_bytes=int(row["memory_gib"]) * _GIB if row["memory_gib"] else None,
        first_driver_linux=version(row["first_driver_linux"]) if row["first_driver_linux"] else None,
        checked=row["checked"],
        source=row["source"],
    )


def generation_row(row: Mapping[str, str]) -> GenerationRow:
    """One row of ``generations.csv``."""
    return GenerationRow(
        compute_capability=ComputeCapability.parse(row["compute_capability"]),
        generation=row["generation"],
        first_branch=int(row["first_branch"]) if row["first_branch"] else None,
        last_branch=int(row["last_branch"]) if row["last_branch"] else None,
        modules=_one_of(row["modules"], "open", "proprietary", "either", "integrated"),
        integrated=_one_of(row["integrated"], "yes", "no") == "yes",
        first_toolkit=RuntimeVersion.parse(row["first_toolkit"]) if row["first_toolkit"] else None,
        last_toolkit=RuntimeVersion.parse(row["last_toolkit"]) if row["last_toolkit"] else None,
        checked=row["checked"],
        source=row["source"],
    )


def branch_row(row: Mapping[str, str]) -> BranchRow:
    """One row of ``branches.csv``."""
    return BranchRow(
        branch=int(row["branch"]),
        cuda=RuntimeVersion.parse(row["cuda"]),
        note=row["note"],
        checked=row["checked"],
        source=row["source"],
    )


def toolkit_row(row: Mapping[str, str]) -> ToolkitRow:
    """One row of ``toolkits.csv``."""
    return ToolkitRow(
        cuda=RuntimeVersion.parse(row["cuda"]),
        update=row["update"],
        min_linux=version(row["min_linux"]) if row["min_linux"] else None,
        min_windows=version(row["min_windows"]) if row["min_windows"] else None,
        compat_linux=version(row["compat_linux"]),
        compat_windows=version(row["compat_windows"]),
        checked=row["checked"],
        source=row["source"],
    )


def companion_row(row: Mapping[str, str]) -> CompanionRow:
    """One row of ``companions.csv``."""
    return CompanionRow(
        name=_one_of(row["name"], "torchvision", "torchaudio"),
        version=row["version"],
        torch=_matching(row["torch"], re.compile(r"(==|>=)\d+\.\d+(\.\d+)?\Z"), "a torch specifier"),
        cuda_code=_one_of(row["cuda_code"], "yes", "no") == "yes",
        read_tag=_matching(row["read_tag"], re.compile(r"(cu\d{3})?\Z"), "a CUDA tag"),
        targets=targets(row["targets"]),
        checked=row["checked"],
        source=row["source"],
    )


def glibc_row(row: Mapping[str, str]) -> GlibcRow:
    """One row of ``glibc.csv``."""
    return GlibcRow(
        torch_from=version(row["torch_from"]),
        arch=_one_of(row["arch"], "", "x86_64", "aarch64"),
        cuda_tag=_matching(row["cuda_tag"], re.compile(r"(cu\d{3})?\Z"), "a CUDA tag"),
        glibc=version(row["glibc"]),
        checked=row["checked"],
        source=row["source"],
    )


def retired_row(row: Mapping[str, str]) -> RetiredRow:
    """One row of ``retired.csv``."""
    return RetiredRow(
        cuda_tag=_matching(row["cuda_tag"], _TAG, "a CUDA tag"),
        channel=_one_of(row["channel"], "stable", "nightly"),
        torch_from=row["torch_from"],
        torch_to=row["torch_to"],
        date_to=row["date_to"],
        targets=targets(f"{row['sass']} {row['ptx']}"),
        checked=row["checked"],
        source=row["source"],
    )


def _one_of(text: str, *allowed: str) -> str:
    if text not in allowed:
        raise ValueError(f"{text!r} is none of {', '.join(allowed)}")
    return text


def _matching(text: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.match(text):
        raise ValueError(f"{text!r} is not {what}")
    return text
