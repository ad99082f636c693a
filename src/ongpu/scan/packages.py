"""An environment's packages: which file belongs to whom, and what each carries."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ongpu.domain.coverage import BinaryCoverage, PackageCoverage, ScanReport
from ongpu.errors import UsageError
from ongpu.scan.disk import look, read_large, statuses_of
from ongpu.scan.files import LIBRARY_SUFFIXES, is_library, may_have_code, normalized
from ongpu.scan.tally import Tally

UNOWNED: Final = "(no package)"
_METADATA_BYTES: Final = 4096
_NAME: Final = re.compile(r"^Name:[ \t]*(\S+)[ \t\r]*$", re.MULTILINE)
_LIBRARY_BYTES: Final = tuple(
    one.encode() for one in (*LIBRARY_SUFFIXES, *((".DLL", ".PYD") if os.name == "nt" else ()))
)
_NOT_THE_PACKAGE: Final = frozenset({"__pycache__", ".git", "build", "node_modules", ".venv", ".venv-gpu", "venv"})


@dataclass(slots=True, kw_only=True)
class _Owner:
    name: str
    version: str
    location: Path
    files: dict[str, str | None] = field(default_factory=dict)
    """The path of each file that may hold code, with the digest its RECORD gives."""


def scan_paths(
    site_packages: Sequence[Path],
    *,
    deep: bool = True,
    names: frozenset[str] | None = None,
    libraries_only: bool = False,
) -> ScanReport:
    """The coverage of every package in these folders, by the files their RECORDs name.

    A folder is a ``site-packages``, a conda prefix (``conda-meta``), or any folder of binaries; what no package
    owns is reported under ``(no package)``. A missing RECORD is a problem of that package alone.

    :param deep: also search the data outside the fat-binary sections.
    :param names: only packages of these (normalized) names.
    :param libraries_only: only files that a program loads, by their names, and only packages that have such.
    :raises UsageError: when a folder does not exist.
    """
    owners: list[_Owner] = []
    problems: list[str] = []
    for folder in site_packages:
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is not a folder.", next_step="Give a file, a wheel, a folder or an environment."
            )
        owners.extend(_owners(folder, problems, names, wanted=is_library if libraries_only else may_have_code))
    if names is None:
        owned = {path for owner in owners for path in owner.files}
        for folder in site_packages:
            rest = {path: None for path in _walk(folder) if path not in owned}
            if rest:
                owners.append(_Owner(name=UNOWNED, version="", location=folder, files=dict(rest)))
    packages: list[PackageCoverage] = []
    files_read = 0
    statuses = statuses_of(path for owner in owners for path in owner.files)
    read = read_large([owner.files for owner in owners], statuses) if deep else {}
    for owner in owners:
        if libraries_only and not owner.files:
            continue
        kept: list[BinaryCoverage] = []
        host_only = 0
        digests: set[str] = set()
        for path, digest in owner.files.items():
            # One file under several names (links, or copies as RECORD's digest shows) is judged once.
            if path not in statuses or (digest is not None and digest in digests):
                continue
            status = statuses.pop(path)
            coverage = read[path] if path in read else look(path, status, deep=deep)
            if isinstance(coverage, FileNotFoundError):
                problems.append(f"{owner.name}: {path} is in RECORD and not on the disk")
                continue
            if isinstance(coverage, OSError):  # what was not read must not pass for what carries nothing
                tally = Tally()
                tally.problem(f"cannot be read: {coverage.strerror or coverage}")
                coverage = tally.unreadable(path=path, size_bytes=0)
            if coverage is None:
                continue
            if digest is not None:
                digests.add(digest)
            files_read += 1
            if coverage.has_code or coverage.rocm or coverage.problems:
                kept.append(coverage if digest is None else replace(coverage, sha256=digest))
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


def _owners(
    folder: Path, problems: list[str], names: frozenset[str] | None, *, wanted: Callable[[str], bool]
) -> Iterator[_Owner]:
    try:
        entries = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be listed: {error.strerror}.", next_step="Give a readable folder."
        ) from error
    for entry in entries:
        if entry.endswith(".dist-info") and (names is None or normalized(entry.partition("-")[0]) in names):
            yield _read_record(folder, entry, problems, wanted)
    conda = folder / "conda-meta"
    if conda.is_dir():
        for path in sorted(conda.glob("*.json")):
            owner = _read_conda(folder, path, problems, wanted)
            if owner is not None and (names is None or normalized(owner.name) in names):
                yield owner


def _read_record(folder: Path, entry: str, problems: list[str], wanted: Callable[[str], bool]) -> _Owner:
    stem = entry.removesuffix(".dist-info")
    name, _, version = stem.partition("-")
    owner = _Owner(name=name, version=version, location=folder)
    base, dist_info = f"{folder}{os.sep}", folder / entry
    try:
        record = (dist_info / "RECORD").read_bytes()
    except OSError:
        owner.name = _metadata_name(dist_info) or name
        problems.append(f"{owner.name}: no RECORD in {dist_info}, so its files are counted as nobody's")
        return owner
    try:
        # Most packages are of Python alone, which is told without going through their rows.
        if wanted is may_have_code or any(suffix in record for suffix in _LIBRARY_BYTES):
            for row, digest in rows_of(record.decode("utf-8", "replace")):
                if wanted(row):
                    owner.files[_joined(base, row)] = digest or None
    except csv.Error as error:
        problems.append(f"{name}: RECORD in {dist_info} is broken: {error}")
    owner.files.update(dict.fromkeys(_editable_files(dist_info)))
    if owner.files or wanted is may_have_code:
        owner.name = _metadata_name(dist_info) or name
    return owner


def rows_of(text: str) -> Iterator[tuple[str, str]]:
    """Path and digest of each row of a RECORD: comma-separated, and hardly ever quoted."""
    lines = (line for line in text.splitlines() if "\0" not in line)
    if '"' in text:
        for row in csv.reader(lines):
            if row:
                yield row[0], row[1] if len(row) > 1 else ""
        return
    for line in lines:
        path, _, rest = line.partition(",")
        if path:
            yield path, rest.partition(",")[0]


def _joined(base: str, row: str) -> str:
    if "./" in row or "//" in row or os.sep != "/":
        return str(Path(base, row))
    return row if row.startswith("/") else base + row


def _editable_files(dist_info: Path) -> Iterator[str]:
    """The binaries built in place of a package that was installed with ``-e`` (PEP 660): RECORD names none of them."""
    try:
        with open(f"{dist_info}/direct_url.json", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - as above
            direct = json.load(file)
        if not direct["dir_info"]["editable"] or not direct["url"].startswith("file:"):
            return
        source = _local(direct["url"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    for path in _walk(source, skip=_NOT_THE_PACKAGE):
        if path.endswith(LIBRARY_SUFFIXES):
            yield path


def _local(url: str) -> Path:
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415 - 2 ms of every scan, for one kind of install

    # urllib.request has this function, and loads the whole of HTTP with it.
    path = unquote(urlsplit(url).path)
    return Path(path.removeprefix("/") if os.name == "nt" else path)


def _metadata_name(dist_info: Path) -> str | None:
    try:
        with (dist_info / "METADATA").open("rb") as file:
            head = file.read(_METADATA_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    found = _NAME.search(head)
    return found[1] if found else None


def _read_conda(prefix: Path, path: Path, problems: list[str], wanted: Callable[[str], bool]) -> _Owner | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        name, version, files = str(data["name"]), str(data["version"]), list(data["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problems.append(f"{path} is no conda record: {error}")
        return None
    owner = _Owner(name=name, version=version, location=prefix)
    owner.files.update((str(prefix / str(one)), None) for one in files if wanted(str(one)))
    return owner


def _walk(folder: Path, *, skip: frozenset[str] = frozenset({"__pycache__"})) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if one not in skip and not one.endswith(".dist-info"))
        for name in sorted(files):
            if may_have_code(name):
                yield f"{root}{os.sep}{name}"
