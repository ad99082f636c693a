"""Files of which a program loads one: by CUDA version (bitsandbytes), by chip (sgl_kernel), by FFmpeg (torchcodec).

Sources: ``bitsandbytes/cextension.py`` names ``libbitsandbytes_cuda<digits>`` after ``torch.version.cuda``;
``sgl_kernel`` keeps ``sm90/`` and ``sm100/`` and loads the first on 9.0 alone; ``torchcodec`` keeps one library per
FFmpeg major version (``core4`` ... ``core8``), built alike.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Final

from ongpu.domain.arch import CodeKind, CodeTarget, ComputeCapability, RuntimeVersion
from ongpu.domain.coverage import BinaryCoverage, ContainerGroup, TargetCount

_RAW: Final = frozenset({"cubin", "fatbin", "ptx"})
_BY_CUDA: Final = re.compile(r"_cuda(\d{3})(?=[._]|$)")
_BY_CHIP: Final = re.compile(r"(?:^|[/\\])sm(\d{2,3})(?=[/\\])")
_BY_OTHER: Final = re.compile(r"(?<=core)\d+(?=\.)")


def loaded_variants(
    binaries: Sequence[BinaryCoverage], device: ComputeCapability, *, runtime: RuntimeVersion | None
) -> tuple[list[BinaryCoverage], list[list[BinaryCoverage]]]:
    """The files that would be loaded, and the groups of which one would be and it is not known which."""
    plain: list[BinaryCoverage] = []
    by_cuda: dict[str, list[tuple[int, BinaryCoverage]]] = {}
    by_chip: dict[str, list[tuple[int, BinaryCoverage]]] = {}
    by_other: dict[str, list[BinaryCoverage]] = {}
    for binary in binaries:
        name = PurePath(binary.path).name
        cuda, chip = _BY_CUDA.search(name), _BY_CHIP.search(binary.path)
        if cuda:
            by_cuda.setdefault(binary.path.replace(cuda[0], "_cuda"), []).append((int(cuda[1]), binary))
        elif chip:
            key = binary.path[: chip.start(1)] + binary.path[chip.end(1) :]
            by_chip.setdefault(key, []).append((int(chip[1]), binary))
        elif _BY_OTHER.search(name):
            by_other.setdefault(_BY_OTHER.sub("", binary.path), []).append(binary)
        else:
            plain.append(binary)
    raw = [binary for binary in plain if binary.format in _RAW]
    if len(raw) > 1:
        plain = [binary for binary in plain if binary.format not in _RAW]
        plain.append(_database(raw))
    undecided: list[list[BinaryCoverage]] = []
    for versions in by_cuda.values():
        one = _by_version(versions, runtime)
        if one is not None:
            plain.append(one)
        else:
            undecided.append([binary for _, binary in versions])
    for chips in by_chip.values():
        exact = [binary for number, binary in chips if number == device.number]
        plain.append(exact[0] if exact else max(chips, key=lambda item: item[0])[1])
    undecided.extend(by_other.values())
    return plain, undecided


def _database(raw: list[BinaryCoverage]) -> BinaryCoverage:
    """Loose images as the one library they are: a program loads those of its device."""
    counts: Counter[CodeTarget] = Counter()
    for binary in raw:
        for row in (*binary.sass, *binary.ptx, *binary.lto):
            counts[row.target] += row.count
    rows = [TargetCount(target=target, count=count) for target, count in sorted(counts.items())]
    isas = [(row.target, row.isa) for binary in raw for row in binary.ptx if row.isa]
    newest = dict(sorted(isas, key=lambda item: [int(part) for part in item[1].split(".")]))
    return BinaryCoverage(
        path=f"{len(raw)} loose images in {os.path.commonpath([PurePath(one.path).parent for one in raw]) or '.'}",
        format="images",
        sass=tuple(row for row in rows if row.target.kind is CodeKind.SASS),
        ptx=tuple(replace(row, isa=newest.get(row.target)) for row in rows if row.target.kind is CodeKind.PTX),
        lto=tuple(row for row in rows if row.target.kind is CodeKind.LTO),
        groups=tuple(ContainerGroup(targets=(row.target,), count=row.count, outside=True) for row in rows),
    )


def _by_version(versions: list[tuple[int, BinaryCoverage]], runtime: RuntimeVersion | None) -> BinaryCoverage | None:
    """The file of this CUDA version, else the newest older one of the same major."""
    if len(versions) == 1:
        return versions[0][1]
    if runtime is None:
        return None
    wanted = runtime.major * 10 + runtime.minor
    same = [(number, binary) for number, binary in versions if number // 10 == runtime.major and number <= wanted]
    return max(same, key=lambda item: item[0])[1] if same else None
