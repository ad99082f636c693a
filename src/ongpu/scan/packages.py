"""An environment's packages: which file belongs to whom, and what each carries."""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ongpu.domain.coverage import BinaryCoverage, PackageCoverage, ScanReport
from ongpu.errors import UsageError
from ongpu.scan.binary import scan_reader
from ongpu.scan.files import may_have_code, normalized
from ongpu.scan.reader import FileReader
from ongpu.scan.tally import Tally

UNOWNED: Final = "(no package)"
_METADATA_LINES: Final = 60
_BUILT_IN_PLACE: Final = frozenset({".so", ".pyd", ".dll", ".cubin", ".fatbin", ".ptx"})
_NOT_THE_PACKAGE: Final = frozenset({"__pycache__", ".git", "build", "node_modules", ".venv", ".venv-gpu", "venv"})
_MAGIC_BYTES: Final = 8
_MAGICS: Final = (b"\x7fELF", b"MZ", b"!<arch>\n", b"!<thin>\n", b"\x50\xed\x55\xba")


@dataclass(slots=True, kw_only=True)
class _Owner:
    name: str
    version: str
    location: Path
    files: dict[Path, str | None] = field(default_factory=dict)
    """Each file that may hold code, with the digest its RECORD gives."""


def scan_paths(site_packages: Sequence[Path], *, deep: bool = True, names: frozenset[str] | None = None) -> ScanReport:
    """The coverage of every package in these folders, by the files their RECORDs name.

    A folder is a ``site-packages``, a conda prefix (``conda-meta``), or any folder of binaries; what no package
    owns is reported under ``(no package)``. A missing RECORD is a problem of that package alone.

    :param deep: also search the data outside the fat-binary sections.
    :param names: only packages of these (normalized) names.
    :raises UsageError: when a folder does not exist.
    """
    owners: list[_Owner] = []
    problems: list[str] = []
    for folder in site_packages:
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is not a folder.", next_step="Give a file, a wheel, a folder or an environment."
            )
        owners.extend(_owners(folder, problems, names))
    if names is None:
        owned = {path for owner in owners for path in owner.files}
        for folder in site_packages:
            rest = {path: None for path in _walk(folder) if path not in owned}
            if rest:
                owners.append(_Owner(name=UNOWNED, version="", location=folder, files=dict(rest)))
    packages: list[PackageCoverage] = []
    seen: set[tuple[int, int]] = set()
    files_read = 0
    for owner in owners:
        kept: list[BinaryCoverage] = []
        host_only = 0
        digests: set[str] = set()
        for path, digest in owner.files.items():
            try:
                # One file under several names (links, or copies as RECORD's digest shows) is judged once.
                if digest is not None and digest in digests:
                    continue
                coverage = _scan(path, seen, deep=deep)
            except FileNotFoundError:
                problems.append(f"{owner.name}: {path} is in RECORD and not on the disk")
                continue
            except OSError as error:  # what was not read must not pass for what carries nothing
                tally = Tally()
                tally.problem(f"cannot be read: {error.strerror or error}")
                coverage = tally.unreadable(path=str(path), size_bytes=0)
            if coverage is None:
                continue
            if digest is not None:
                digests.add(digest)
            files_read += 1
            if coverage.has_code or coverage.rocm or coverage.problems:
                kept.append(replace(coverage, sha256=digest))
                problems.extend(f"{path}: {text}" for text in coverage.problems)
            else:
                host_only += 1
        packages.append(
            PackageCoverage(
                name=owner.name,
                version=owner.version,
                binaries=tuple(kept),
                host_only=host_only,
                location=str(owner.location),
            )
        )
    return ScanReport(
        target=os.pathsep.join(str(folder) for folder in site_packages),
        packages=tuple(sorted(packages, key=lambda one: one.name.lower())),
        problems=tuple(problems),
        files_read=files_read,
        deep=deep,
    )


def _scan(path: Path, seen: set[tuple[int, int]], *, deep: bool) -> BinaryCoverage | None:
    status = path.stat()
    identity = (status.st_dev, status.st_ino)
    if not stat.S_ISREG(status.st_mode) or (status.st_ino and identity in seen):
        return None
    seen.add(identity)
    with FileReader(path) as reader:
        if not reader.read_at(0, _MAGIC_BYTES).startswith(_MAGICS) and path.suffix != ".ptx":
            return None
        try:
            return scan_reader(reader, path=str(path), deep=deep)
        except OSError as error:
            tally = Tally()
            tally.problem(f"reading failed: {error.strerror or error}")
            return tally.unreadable(path=str(path), size_bytes=reader.size)


def _owners(folder: Path, problems: list[str], names: frozenset[str] | None) -> Iterator[_Owner]:
    try:
        entries = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be listed: {error.strerror}.", next_step="Give a readable folder."
        ) from error
    for entry in entries:
        if entry.endswith(".dist-info") and (names is None or normalized(entry.partition("-")[0]) in names):
            yield _read_record(folder, entry, problems)
    conda = folder / "conda-meta"
    if conda.is_dir():
        for path in sorted(conda.glob("*.json")):
            owner = _read_conda(folder, path, problems)
            if owner is not None and (names is None or normalized(owner.name) in names):
                yield owner


def _read_record(folder: Path, entry: str, problems: list[str]) -> _Owner:
    stem = entry.removesuffix(".dist-info")
    name, _, version = stem.partition("-")
    owner = _Owner(name=_metadata_name(folder / entry) or name, version=version, location=folder)
    try:
        text = (folder / entry / "RECORD").read_text(encoding="utf-8", errors="replace")
    except OSError:
        problems.append(f"{owner.name}: no RECORD in {folder / entry}, so its files are counted as nobody's")
        return owner
    try:
        for row in csv.reader(line for line in text.splitlines() if "\0" not in line):
            if row and may_have_code(row[0]):
                owner.files[folder / row[0]] = row[1] if len(row) > 1 and row[1] else None
    except csv.Error as error:
        problems.append(f"{owner.name}: RECORD in {folder / entry} is broken: {error}")
    owner.files.update(dict.fromkeys(_editable_files(folder / entry)))
    return owner


def _editable_files(dist_info: Path) -> Iterator[Path]:
    """The binaries built in place of a package that was installed with ``-e`` (PEP 660): RECORD names none of them."""
    try:
        direct = json.loads((dist_info / "direct_url.json").read_text(encoding="utf-8", errors="replace"))
        if not direct["dir_info"]["editable"] or not direct["url"].startswith("file:"):
            return
        source = _local(direct["url"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    for path in _walk(source, skip=_NOT_THE_PACKAGE):
        if path.suffix in _BUILT_IN_PLACE:
            yield path


def _local(url: str) -> Path:
    # urllib.request has this function, and loads the whole of HTTP with it.
    path = unquote(urlsplit(url).path)
    return Path(path.removeprefix("/") if os.name == "nt" else path)


def _metadata_name(dist_info: Path) -> str | None:
    try:
        with (dist_info / "METADATA").open(encoding="utf-8", errors="replace") as lines:
            for _, line in zip(range(_METADATA_LINES), lines, strict=False):
                if line.startswith("Name:"):
                    return line[5:].strip()
    except OSError:
        return None
    return None


def _read_conda(prefix: Path, path: Path, problems: list[str]) -> _Owner | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        name, version, files = str(data["name"]), str(data["version"]), list(data["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problems.append(f"{path} is no conda record: {error}")
        return None
    owner = _Owner(name=name, version=version, location=prefix)
    owner.files.update({prefix / str(one): None for one in files if may_have_code(str(one))})
    return owner


def _walk(folder: Path, *, skip: frozenset[str] = frozenset({"__pycache__"})) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if one not in skip and not one.endswith(".dist-info"))
        for name in sorted(files):
            if may_have_code(name):
                yield Path(root) / name
