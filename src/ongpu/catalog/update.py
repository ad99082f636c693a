"""A new build read from its wheel: what it was built for, from the binary, not from anybody's table.

torch writes the targets it was compiled for into ``libtorch_python`` (what ``torch.cuda.get_arch_list()`` answers).
The wheel is a zip whose parts can be fetched alone, so that some ten megabytes of half a gigabyte are read.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Protocol

from ongpu.catalog import Catalog
from ongpu.catalog.check import check
from ongpu.catalog.read import CatalogError, build_row, parse
from ongpu.domain.arch import CodeKind, CodeTarget
from ongpu.domain.build import TorchBuild
from ongpu.errors import WorkError

_BUILD_COLUMNS = ("torch", "channel", "cuda_tag", "os", "arch", "pythons", "sass", "ptx", "pypi_default")
COLUMNS = (*_BUILD_COLUMNS, "evidence", "publication", "checked", "source")
# In libtorch_python of 2.15.0: b"\0sm_75 sm_80 sm_86 sm_90 sm_100 sm_120\0"
_FLAGS = re.compile(rb"\x00((?:(?:sm|compute)_\d{2,3}[af]?)(?: (?:sm|compute)_\d{2,3}[af]?)*)\x00")
_WHEEL = re.compile(
    r"torch-(?P<version>\d+\.\d+\.\d+(?:\.dev\d+)?)(?:(?:\+|%2B)(?P<label>\w+))?"
    r"(?:-\d\w*)?-cp(?P<python>\d+)-cp\d+(?P<threads>t?)-(?P<platform>[\w.]+)\.whl\Z"
)
# torch/version.py: "__version__ = '2.15.0+cu132'", "cuda: Optional[str] = '13.2'"; a CPU build has "cuda = None".
_VERSION = re.compile(r"^__version__\s*(?::[^=]*)?=\s*'([^'+]+)(?:\+([^']+))?'", re.MULTILINE)
_CUDA = re.compile(r"^cuda\s*(?::[^=]*)?=\s*(?:'(\d+)\.(\d+)'|(None))", re.MULTILINE)
_LIBRARY = re.compile(r"torch/lib/(?:libtorch_python\.so|torch_python\.dll)\Z")
_MAX_MEMBER_BYTES = 256 << 20


class Ranges(Protocol):
    """A file that can be read in parts, here or on a server."""

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; fewer at the end."""
        ...


class LocalFile:
    """A wheel on this machine."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.size_bytes = file.seek(0, io.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        """Read a part."""
        self._file.seek(offset)
        return self._file.read(length)


class RemoteFile:
    """A wheel on a server that serves ranges.

    :param fetch: gets the bytes from first to last, both inclusive.
    """

    def __init__(self, *, size_bytes: int, fetch: Callable[[int, int], bytes]) -> None:
        self.size_bytes = size_bytes
        self._fetch = fetch
        self.fetched_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        """Fetch a part."""
        last = min(offset + length, self.size_bytes) - 1
        data = self._fetch(offset, last) if last >= offset else b""
        self.fetched_bytes += len(data)
        return data


def read_wheel(
    wheel: Ranges, *, file_name: str, checked: str, on_pypi: bool, pythons: Iterable[str] = ()
) -> TorchBuild:
    """Read a torch wheel into a row of the catalog.

    :param checked: the date of the reading, ``2026-11-22``.
    :param on_pypi: whether it is PyPI's own variant of the release.
    :param pythons: the Python tags the release was published for; the wheel's own alone where they are not known.
    :raises WorkError: for a file that is no torch wheel, is damaged, or does not say what it was built for.
    """
    named = _WHEEL.match(file_name)
    if not named:
        raise _refused(file_name, "its name is not that of a torch wheel")
    try:
        with zipfile.ZipFile(_Seekable(wheel)) as archive:
            text = archive.read("torch/version.py").decode("utf-8", errors="replace")
            label = _label(text, named["label"])
            member = next((one for one in archive.namelist() if _LIBRARY.search(one)), None)
            library = _member(archive, member, file_name) if member and label != "cpu" else b""
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise _refused(file_name, f"it cannot be read as a wheel ({error})") from error
    if not re.match(r"cu\d{3}\Z|cpu\Z", label):
        raise _refused(file_name, f"its version says {label or 'nothing'} where a CUDA tag is expected")
    targets = _targets(library)
    if label != "cpu" and not targets:
        raise _refused(file_name, "its libtorch_python does not say what it was built for")
    system, arch = _platform(named["platform"], file_name)
    own = f"3.{named['python'][1:]}{named['threads']}"
    release = named["version"].split(".dev")
    return TorchBuild(
        torch=f"{release[0]}.dev" if len(release) > 1 else release[0],
        channel="nightly" if len(release) > 1 else "stable",
        cuda_tag=label,
        os=system,
        arch=arch,
        pythons=tuple(pythons) or (own,),
        targets=targets,
        pypi_default=on_pypi,
        source=f"read from binary: arch flags of {file_name}" + (" of PyPI" if on_pypi else ""),
        evidence="binary",
        publication="seen",
        checked=checked,
    )


def row_text(builds: Iterable[TorchBuild]) -> str:
    """Builds as a table with its header, as :func:`with_rows` and ``builds.csv`` take it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in builds:
        sass = " ".join(str(target) for target in one.targets if target.kind is CodeKind.SASS)
        ptx = " ".join(str(target) for target in one.targets if target.kind is not CodeKind.SASS)
        default = "yes" if one.pypi_default else "no"
        said = (one.evidence, one.publication, one.checked, one.source)
        writer.writerow(
            (one.torch, one.channel, one.cuda_tag, one.os, one.arch, " ".join(one.pythons), sass, ptx, default, *said)
        )
    return out.getvalue()


def with_rows(catalog: Catalog, text: str, *, file: str) -> Catalog:
    """A catalog with more builds: a row for the same build takes the place of the shipped one.

    :param text: a table as :func:`row_text` writes it.
    :raises CatalogError: naming file and line of a broken row, or of one that contradicts the rest.
    """
    builds = _replaced(catalog.builds, own_rows(text, file=file))
    check(
        builds=builds,
        gpus=catalog.gpus,
        generations=catalog.generations,
        branches=catalog.branches,
        toolkits=catalog.drivers,
    )
    return dataclasses.replace(catalog, builds=builds)


def own_rows(text: str, *, file: str) -> tuple[TorchBuild, ...]:
    """The builds of a table. Raises :class:`CatalogError` naming file and line, also for a table without rows."""
    rows = parse(text, file=file, make=build_row)
    if not rows:
        raise CatalogError(f"{file} has no rows.")
    return rows


def merged(text: str | None, found: Iterable[TorchBuild], *, file: str) -> tuple[TorchBuild, ...]:
    """A table's builds (``None``: none yet) and newly read ones, which take the place of older readings."""
    return _replaced(own_rows(text, file=file) if text is not None else (), found)


def _replaced(builds: Iterable[TorchBuild], more: Iterable[TorchBuild]) -> tuple[TorchBuild, ...]:
    by_key = {_key(one): one for one in builds}
    by_key.update({_key(one): one for one in more})
    return tuple(by_key.values())


def pythons_of(file_names: Iterable[str], *, release: str, platform: str) -> tuple[str, ...]:
    """The Python tags that an index has wheels of a release for, on one platform (``manylinux_2_28_x86_64``)."""
    found = set()
    for name in file_names:
        named = _WHEEL.match(name)
        if named and named["version"] == release and named["platform"] == platform:
            found.add((int(named["python"][1:]), named["threads"]))
    return tuple(f"3.{minor}{threads}" for minor, threads in sorted(found))


def _key(one: TorchBuild) -> tuple[str, str, str, str, str]:
    return (one.torch, one.channel, one.cuda_tag, one.os, one.arch)


def _label(text: str, in_name: str | None) -> str:
    """``cu132`` or ``cpu``: from the local label of the version, else from the CUDA version beside it."""
    version, cuda = _VERSION.search(text), _CUDA.search(text)
    if version and version[2]:
        return version[2]
    if cuda is not None:
        return "cpu" if cuda[3] else f"cu{cuda[1]}{cuda[2]}"
    return in_name or ""


def _member(archive: zipfile.ZipFile, name: str, file_name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_MEMBER_BYTES:
        raise _refused(file_name, f"{name} in it is larger than {_MAX_MEMBER_BYTES} bytes")
    return archive.read(name)


def _targets(library: bytes) -> tuple[CodeTarget, ...]:
    """The longest list of targets in the library: shorter strings of the same form are messages."""
    lists = sorted({found[1] for found in _FLAGS.finditer(library)}, key=lambda one: (one.count(b" "), one))
    if not lists:
        return ()
    parsed = {CodeTarget.parse(one) for one in lists[-1].decode("ascii").split()}
    return tuple(sorted(parsed, key=lambda one: (one.kind is not CodeKind.SASS, one.number, one.suffix)))


def _platform(tag: str, file_name: str) -> tuple[str, str]:
    if "linux" in tag:
        return "linux", "aarch64" if "aarch64" in tag else "x86_64"
    if tag.startswith("win"):
        return "windows", "aarch64" if "arm64" in tag else "x86_64"
    raise _refused(file_name, f"{tag} is no platform with NVIDIA GPUs")


def _refused(file_name: str, reason: str) -> WorkError:
    return WorkError(
        f"{file_name}: {reason}.", next_step="Give a torch wheel as PyPI or PyTorch's index serves it, or its URL."
    )


class _Seekable(io.RawIOBase):
    """Parts of a file as a file object, fetched in blocks that are kept: zip reading jumps about at the end."""

    _BLOCK_BYTES = 1 << 20

    def __init__(self, ranges: Ranges) -> None:
        super().__init__()
        self._ranges = ranges
        self._place = 0
        self._kept: dict[int, bytes] = {}

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._ranges.size_bytes}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int = -1) -> bytes:
        end = self._ranges.size_bytes if size < 0 else min(self._place + size, self._ranges.size_bytes)
        parts = []
        while self._place < end:
            number = self._place // self._BLOCK_BYTES
            if number not in self._kept:
                self._kept[number] = self._ranges.read(number * self._BLOCK_BYTES, self._BLOCK_BYTES)
            inside = self._place - number * self._BLOCK_BYTES
            part = self._kept[number][inside : inside + end - self._place]
            if not part:
                raise EOFError("the file ends too early")
            parts.append(part)
            self._place += len(part)
        return b"".join(parts)
