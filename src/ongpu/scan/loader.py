"""Which CUDA libraries the loader would take for torch, and which of them only because of ``LD_LIBRARY_PATH``.

The order of ld.so(8): the ``DT_RPATH`` of who needs it and of who loaded that (unless who needs it has a
``DT_RUNPATH``), then ``LD_LIBRARY_PATH``, then the ``DT_RUNPATH``. torch's wheels are built with ``DT_RPATH``, which
nothing overrides; some of NVIDIA's libraries with ``DT_RUNPATH``, which that variable does. Nothing is loaded here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ongpu.scan.dynamic import Symbols, read_dynamic, read_symbols
from ongpu.scan.reader import FileReader, MalformedError

# The libraries of the CUDA toolkit, cuDNN, NCCL and NVSHMEM; not the driver's, which come from the system.
_OURS: Final = re.compile(
    r"lib(?:cuda(?:rt|nvrtc)|cu(?:blas|dnn|fft|rand|solver|sparse|pti|file|tensor)|nv(?:rtc|JitLink|shmem|blas|vm)|nccl)"
)
_ROOTS: Final = ("lib/libtorch_global_deps.so", "lib/libtorch_cuda.so", "lib/libtorch_cuda_linalg.so")
_MOST_LIBRARIES: Final = 500


class Displaced(NamedTuple):
    """A library that is taken from ``LD_LIBRARY_PATH`` in place of the one that would be taken without it.

    ``lacking`` are the symbols that the own one gives to whom needs it, and the taken one does not: with any of them
    an import ends with "undefined symbol". ``None`` where the symbols could not be read.
    """

    name: str
    needed_by: tuple[str, ...]
    taken: str
    own: str
    lacking: tuple[str, ...] | None


class _Loaded(NamedTuple):
    path: Path
    rpaths: tuple[Path, ...]
    """Where its own needs are looked for first: its ``DT_RPATH`` and those of its loaders."""
    runpaths: tuple[Path, ...]
    needed: tuple[str, ...]


def displaced_libraries(torch: Path, library_path: str) -> tuple[Displaced, ...]:
    """What ``LD_LIBRARY_PATH`` changes for what the torch in a folder loads, where it has CUDA libraries at all.

    :param library_path: the variable's value.
    """
    folders = [Path(one) for one in re.split("[:;]", library_path) if one and Path(one).is_dir()]
    if not any(_OURS.match(path.name) for folder in folders for path in _listed(folder)):
        return ()
    roots = [path for name in _ROOTS if (path := torch / name).is_file()]
    with_it, without = _resolved(roots, folders), _resolved(roots, ())
    found = []
    for name, (taken, needing) in with_it.items():
        own = without[name][0] if name in without else None
        if taken is not None and own is not None and taken.resolve() != own.resolve():
            lacking = _lacking(needing, taken=taken, own=own)
            by = tuple(str(one) for one in needing)
            found.append(Displaced(name=name, needed_by=by, taken=str(taken), own=str(own), lacking=lacking))
    return tuple(found)


def _lacking(needing: Sequence[Path], *, taken: Path, own: Path) -> tuple[str, ...] | None:
    given, wanted = _symbols(taken), _symbols(own)
    asked = [_symbols(one) for one in needing]
    if given is None or wanted is None or None in asked:
        return None
    every = {name for one in asked if one is not None for name in one.undefined}
    return tuple(sorted((every & wanted.defined) - given.defined))


def _symbols(path: Path) -> Symbols | None:
    try:
        with FileReader(path) as reader:
            return read_symbols(reader)
    except (OSError, MalformedError):
        return None


def _listed(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return ()


def _resolved(roots: Sequence[Path], ahead: Sequence[Path]) -> dict[str, tuple[Path | None, list[Path]]]:
    """Each library by the name it is needed by, in the order of loading: which file, and for whom."""
    found: dict[str, tuple[Path | None, list[Path]]] = {}
    for root in roots:
        loaded = _load(root, ())
        waiting = deque([loaded] if loaded else [])
        while waiting and len(found) < _MOST_LIBRARIES:
            one = waiting.popleft()
            for name in one.needed:
                if name in found:
                    found[name][1].append(one.path)
                    continue
                first = () if one.runpaths else one.rpaths
                path = _in(name, (*first, *ahead, *one.runpaths))
                found[name] = (path, [one.path])
                below = _load(path, one.rpaths) if path is not None else None
                if below is not None:
                    waiting.append(below)
    return found


def _in(name: str, folders: Iterable[Path]) -> Path | None:
    return next((path for folder in folders if (path := folder / name).is_file()), None)


def _load(path: Path, above: tuple[Path, ...]) -> _Loaded | None:
    try:
        with FileReader(path) as reader:
            asks = read_dynamic(reader)
    except (OSError, MalformedError):
        return None
    of = _origin(path)
    own = tuple(of(one) for one in asks.rpath) if not asks.runpath else ()
    return _Loaded(path, (*own, *above), tuple(of(one) for one in asks.runpath), asks.needed)


def _origin(path: Path) -> Callable[[str], Path]:
    folder = str(path.resolve().parent)
    return lambda text: Path(text.replace("${ORIGIN}", folder).replace("$ORIGIN", folder))
