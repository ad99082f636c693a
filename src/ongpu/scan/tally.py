"""Counting images into the coverage of one file."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from ongpu.domain.arch import CodeKind, CodeTarget
from ongpu.domain.coverage import BinaryCoverage, ContainerGroup, OpaqueData, Role, TargetCount
from ongpu.scan.fatbin import Image

_MAX_GROUPS: Final = 4096
_MAX_PROBLEMS: Final = 8
_KINDS: Final = frozenset(kind.value for kind in CodeKind)


class Place(enum.Enum):
    """Where an image lies, which decides whether the driver ever sees it."""

    SECTION = "section"
    RELOCATABLE = "relocatable"
    OUTSIDE = "outside"
    OUTSIDE_RELOCATABLE = "outside, relocatable"


_EXECUTABLE: Final = frozenset({Place.SECTION, Place.OUTSIDE})


class Tally:
    """Adds up one file."""

    def __init__(self) -> None:
        self._images: Counter[tuple[Image, Place]] = Counter()
        self._groups: Counter[tuple[frozenset[Image], bool]] = Counter()
        self._texts: Counter[Image] = Counter()
        self._opaque: dict[str, list[int]] = {}
        self._problems: list[str] = []
        self._dropped = 0
        self._targets: dict[Image, CodeTarget | None] = {}

    def add(self, images: Mapping[Image, int], place: Place) -> None:
        """Count one container (or one raw image)."""
        for image, count in images.items():
            here = place
            if image.relocatable:
                here = Place.OUTSIDE_RELOCATABLE if place is Place.OUTSIDE else Place.RELOCATABLE
            self._images[image, here] += count
        if place in _EXECUTABLE:
            key = (frozenset(images), place is Place.OUTSIDE)
            if key in self._groups or len(self._groups) < _MAX_GROUPS:
                self._groups[key] += 1
            else:
                self.problem("more different containers than any known library has: some are not told apart")

    def add_text(self, image: Image) -> None:
        """Count one PTX module found as plain text."""
        self._texts[image] += 1

    def opaque(self, section: str, size_bytes: int) -> None:
        """Count one zstd frame."""
        entry = self._opaque.setdefault(section, [0, 0])
        entry[0] += 1
        entry[1] += size_bytes

    def problem(self, text: str) -> None:
        """Note what could not be read; repeats are not kept."""
        if text in self._problems:
            return
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(text)
        else:
            self._dropped += 1

    @property
    def found_code(self) -> bool:
        """Whether any image was counted."""
        return bool(self._images)

    def _target(self, image: Image) -> CodeTarget | None:
        if image not in self._targets:
            target = None
            if image.kind in _KINDS:
                try:
                    target = CodeTarget(CodeKind(image.kind), image.number, image.suffix)
                except ValueError:
                    self.problem(f"an image for an unknown architecture number {image.number}")
            self._targets[image] = target
        return self._targets[image]

    def coverage(
        self, *, path: str, file_format: str, size_bytes: int, role: Role, rocm: bool = False, deep: bool = True
    ) -> BinaryCoverage:
        """The file's coverage, in the order of the targets."""
        if not (self._images or self._texts or self._opaque or self._problems):  # most files of an environment
            return BinaryCoverage(path=path, format=file_format, size_bytes=size_bytes, role=role, rocm=rocm, deep=deep)
        executable = [(image, count) for (image, place), count in self._images.items() if place in _EXECUTABLE]
        isas = [image.isa for image, _ in executable if image.isa]
        problems = [*self._problems]
        if self._dropped:
            problems.append(f"and {self._dropped} more")
        return BinaryCoverage(
            path=path,
            format=file_format,
            sass=self._count(executable, kind=CodeKind.SASS),
            ptx=self._count(executable, kind=CodeKind.PTX),
            lto=self._count(executable, kind=CodeKind.LTO),
            relocatable=self._count(self._in(Place.RELOCATABLE)),
            ptx_isa=_isa(max(isas)) if isas else None,
            size_bytes=size_bytes,
            problems=tuple(problems),
            outside=self._count(self._in(Place.OUTSIDE)),
            outside_relocatable=self._count(self._in(Place.OUTSIDE_RELOCATABLE)),
            texts=self._count(self._texts.items()),
            empty=self._count((image, count) for image, count in executable if image.empty),
            groups=self._container_groups(),
            opaque=tuple(
                OpaqueData(section=name, frames=frames, size_bytes=size)
                for name, (frames, size) in sorted(self._opaque.items())
            ),
            other_images=tuple(
                f"{image.kind} for {image.number}{image.suffix} x {count}"
                for (image, _), count in sorted(self._images.items(), key=lambda item: item[0][0][:3])
                if image.kind not in _KINDS
            ),
            role=role,
            rocm=rocm,
            deep=deep,
        )

    def _container_groups(self) -> tuple[ContainerGroup, ...]:
        merged: Counter[tuple[tuple[CodeTarget, ...], tuple[CodeTarget, ...], bool]] = Counter()
        for (images, outside), count in self._groups.items():
            known = [(image, self._target(image)) for image in images if not image.relocatable]
            full = {target for image, target in known if target is not None and not image.empty}
            empty = {target for image, target in known if target is not None and image.empty} - full
            if full or empty:
                merged[tuple(sorted(full)), tuple(sorted(empty)), outside] += count
        return tuple(
            ContainerGroup(targets=full, empty=empty, outside=outside, count=count)
            for (full, empty, outside), count in sorted(merged.items(), key=lambda item: (-item[1], item[0]))
        )

    def _in(self, wanted: Place) -> list[tuple[Image, int]]:
        return [(image, count) for (image, place), count in self._images.items() if place is wanted]

    def unreadable(self, *, path: str, size_bytes: int) -> BinaryCoverage:
        """The coverage of a file that could not be opened up: its problems, and nothing else."""
        return self.coverage(path=path, file_format="unreadable", size_bytes=size_bytes, role=Role.RUNTIME)

    def _count(self, images: Iterable[tuple[Image, int]], *, kind: CodeKind | None = None) -> tuple[TargetCount, ...]:
        counts: Counter[CodeTarget] = Counter()
        isas: dict[CodeTarget, tuple[int, int]] = {}
        for image, count in images:
            target = self._target(image)
            if target is None or (kind is not None and target.kind is not kind):
                continue
            counts[target] += count
            if image.isa:
                isas[target] = max(image.isa, isas.get(target, (0, 0)))
        return tuple(
            TargetCount(target=target, count=count, isa=_isa(isas[target]) if target in isas else None)
            for target, count in sorted(counts.items())
        )


def _isa(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
