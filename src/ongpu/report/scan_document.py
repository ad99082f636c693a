"""The document of ``ongpu scan``: what each file carries, target by target and count by count, and how it is judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ongpu.domain.coverage import (
    BinaryCoverage,
    BinaryFit,
    CodeVerdict,
    OpaqueData,
    Role,
    ScanReport,
    ScanVerdict,
    TargetCount,
)
from ongpu.scan import judge_binary


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDocument:
    """Containers of one file that carry kernels for the same targets; ``empty`` are targets without kernels there."""

    targets: tuple[str, ...]
    count: int
    empty: tuple[str, ...]
    outside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryDocument:
    """One file of a scan: how many images it has for each code target, and how it meets each device.

    ``sass``, ``ptx`` and ``lto`` count executable images wherever they lie; ``outside`` repeats those that lie outside
    the fat-binary sections, ``empty`` those without a kernel, by their size. ``relocatable`` and
    ``outside_relocatable`` are link inputs, ``texts`` PTX as plain text: counted, not judged. ``ptx_isa`` is by PTX
    target the newest ISA version, which the driver must know. ``fit`` is by compute capability, and empty where the
    file is no runtime library (``role``) or made for AMD GPUs (``rocm``). ``record_digest`` is what RECORD says of the
    file; it was not computed.
    """

    package: str
    path: str
    format: str
    role: str
    rocm: bool
    size_bytes: int
    record_digest: str | None
    sass: dict[str, int]
    ptx: dict[str, int]
    lto: dict[str, int]
    ptx_isa: dict[str, str]
    relocatable: dict[str, int]
    outside: dict[str, int]
    outside_relocatable: dict[str, int]
    texts: dict[str, int]
    empty: dict[str, int]
    opaque: tuple[OpaqueData, ...]
    other_images: tuple[str, ...]
    containers: tuple[ContainerDocument, ...]
    fit: dict[str, str]
    reasons: dict[str, str]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageDocument:
    """One package of a scan; ``fit`` is by compute capability: native, jit, partial, none, no-cuda-code, unknown."""

    name: str
    version: str
    fit: dict[str, str]
    reasons: dict[str, str]
    without: dict[str, tuple[str, ...]]
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanDocument:
    """The answer of ``ongpu scan``.

    ``runtime`` is the CUDA runtime version of the environment's torch and ``driver_cuda`` the CUDA driver version that
    PTX was judged by; null where not known, and then not judged. ``deep`` says whether the data outside the
    fat-binary sections was searched. ``failing`` names what ``--fail-on`` refuses.
    """

    target: str
    devices: tuple[str, ...]
    runtime: str | None
    driver_cuda: str | None
    deep: bool
    files_read: int
    binaries: tuple[BinaryDocument, ...]
    packages: tuple[PackageDocument, ...]
    overall: dict[str, str]
    failing: tuple[str, ...]
    problems: tuple[str, ...]


def scan_document(report: ScanReport, verdict: ScanVerdict, *, failing: Sequence[str] = ()) -> ScanDocument:
    """A report and its verdict as one document; ``failing`` are the sentences of the gate."""
    return ScanDocument(
        target=report.target,
        devices=tuple(str(device) for device in verdict.devices),
        runtime=str(verdict.runtime) if verdict.runtime else None,
        driver_cuda=str(verdict.driver_cuda) if verdict.driver_cuda else None,
        deep=report.deep,
        files_read=report.files_read,
        binaries=tuple(_binary(one, package.name, verdict) for package in report.packages for one in package.binaries),
        packages=tuple(
            PackageDocument(
                name=package.name,
                version=package.version,
                fit={str(one.device): one.verdict.value for one in package.fits},
                reasons={str(one.device): one.reason for one in package.fits},
                without={str(one.device): one.without for one in package.fits},
                note=package.note,
            )
            for package in verdict.packages
        ),
        overall={str(one.device): one.verdict.value for one in verdict.overall},
        failing=tuple(failing),
        problems=verdict.problems,
    )


def file_fits(one: BinaryCoverage, verdict: ScanVerdict) -> tuple[BinaryFit, ...]:
    """How one file meets each device; nothing for what no program loads on an NVIDIA GPU."""
    if one.role is not Role.RUNTIME or one.rocm:
        return ()
    return tuple(
        judge_binary(one, device, runtime=verdict.runtime, driver_cuda=verdict.driver_cuda)
        for device in verdict.devices
    )


def _binary(one: BinaryCoverage, package: str, verdict: ScanVerdict) -> BinaryDocument:
    fits = file_fits(one, verdict)
    return BinaryDocument(
        package=package,
        path=one.path,
        format=one.format,
        role=one.role.value,
        rocm=one.rocm,
        size_bytes=one.size_bytes,
        record_digest=one.sha256,
        sass=_counts(one.sass),
        ptx=_counts(one.ptx),
        lto=_counts(one.lto),
        ptx_isa={str(row.target): row.isa for row in one.ptx if row.isa is not None},
        relocatable=_counts(one.relocatable),
        outside=_counts(one.outside),
        outside_relocatable=_counts(one.outside_relocatable),
        texts=_counts(one.texts),
        empty=_counts(one.empty),
        opaque=one.opaque,
        other_images=one.other_images,
        containers=tuple(
            ContainerDocument(
                targets=tuple(map(str, group.targets)),
                count=group.count,
                empty=tuple(map(str, group.empty)),
                outside=group.outside,
            )
            for group in one.groups
        ),
        fit={str(fit.device): fit.verdict.value for fit in fits},
        reasons={str(fit.device): fit.reason for fit in fits if fit.verdict is not CodeVerdict.NO_CODE},
        problems=one.problems,
    )


def _counts(rows: Iterable[TargetCount]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for row in rows:
        counted[str(row.target)] = counted.get(str(row.target), 0) + row.count
    return counted
