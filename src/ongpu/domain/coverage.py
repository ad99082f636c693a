"""What code a binary, a package, an environment carries, and how it meets a device."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ongpu.domain.arch import CodeTarget, ComputeCapability, Fit, RuntimeVersion
from ongpu.domain.verdict import Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCount:
    """How many images of one code target a file carries.

    ``isa`` is the newest PTX ISA version among them (PTX only): the driver must know it to compile the image.
    """

    target: CodeTarget
    count: int
    isa: str | None = None


class Role(enum.StrEnum):
    """What a file's device code is for."""

    RUNTIME = "runtime"
    """Loaded by the program: this alone is judged."""
    LINK_INPUT = "link-input"
    """An archive or an object: the driver never loads it."""
    TOOL = "tool"
    """Patches of a profiler (CUPTI, nvperf): not a package's kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerGroup:
    """Containers of one file that carry code for the same targets.

    A kernel lives in one container, so a device needs a fit in *each* container it gets work from, and a union
    over the file would hide a gap. ``targets`` have kernels; ``empty`` are targets whose cubin is (by its size)
    without any, because the source was compiled out for them.
    """

    targets: tuple[CodeTarget, ...]
    count: int
    empty: tuple[CodeTarget, ...] = ()
    outside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueData:
    """zstd frames outside any container: they may hold cubins, and are not opened."""

    section: str
    frames: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCoverage:
    """The precompiled CUDA code of one file.

    ``sass``, ``ptx`` and ``lto`` count executable images, wherever in the file they lie; ``relocatable`` (in the
    sections) and ``outside_relocatable`` are link inputs, which the driver never loads. ``outside`` repeats those of
    the executable images that lie outside the fat-binary sections, and ``empty`` those whose size says that they
    hold no kernel. ``texts`` are PTX modules as plain strings, perhaps templates: reported, never judged.
    ``problems`` names what of the file could not be read; ``deep`` says whether the data outside the sections was
    searched.
    """

    path: str
    format: str
    sass: tuple[TargetCount, ...] = ()
    ptx: tuple[TargetCount, ...] = ()
    lto: tuple[TargetCount, ...] = ()
    relocatable: tuple[TargetCount, ...] = ()
    ptx_isa: str | None = None
    size_bytes: int = 0
    problems: tuple[str, ...] = ()
    outside: tuple[TargetCount, ...] = ()
    outside_relocatable: tuple[TargetCount, ...] = ()
    texts: tuple[TargetCount, ...] = ()
    empty: tuple[TargetCount, ...] = ()
    groups: tuple[ContainerGroup, ...] = ()
    opaque: tuple[OpaqueData, ...] = ()
    other_images: tuple[str, ...] = ()
    role: Role = Role.RUNTIME
    rocm: bool = False
    deep: bool = True
    sha256: str | None = None

    @property
    def targets(self) -> tuple[CodeTarget, ...]:
        """Every executable target the file has code for."""
        return tuple(one.target for one in (*self.sass, *self.ptx, *self.lto))

    @property
    def has_code(self) -> bool:
        """Whether the file carries device code of any kind, link inputs and PTX text included."""
        images = (self.sass, self.ptx, self.lto, self.relocatable, self.outside_relocatable, self.texts)
        return any(images) or bool(self.other_images)


class CodeVerdict(enum.StrEnum):
    """How what is installed meets a device, best first.

    ``NO_CODE`` is not a fault: a package without precompiled CUDA code may compile at run time (Triton, CuPy,
    numba) or not use the GPU at all. ``UNKNOWN`` is a file that could not be read.
    """

    NATIVE = "native"
    JIT = "jit"
    NO_CODE = "no-cuda-code"
    UNKNOWN = "unknown"
    PARTIAL = "partial"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryFit:
    """How one file meets one device. ``missing`` of ``containers`` have nothing for it."""

    path: str
    device: ComputeCapability
    verdict: CodeVerdict
    reason: str
    containers: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCoverage:
    """How a package meets one device. ``without`` names the files that have nothing (or not all) for it."""

    device: ComputeCapability
    verdict: CodeVerdict
    reason: str
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageCoverage:
    """One installed package: its binaries with device code, and how it meets each device asked about.

    ``note`` says what a reader must know beside the verdict; ``host_only`` counts the binaries without CUDA code.
    """

    name: str
    version: str
    binaries: tuple[BinaryCoverage, ...]
    fits: tuple[DeviceCoverage, ...] = ()
    note: str | None = None
    host_only: int = 0
    location: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """What a file, a folder, a wheel or an environment carries. ``problems`` name what could not be read."""

    target: str
    packages: tuple[PackageCoverage, ...]
    problems: tuple[str, ...] = ()
    files_read: int = 0
    deep: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanVerdict:
    """A report judged for devices.

    ``packages`` are the report's with ``fits`` filled in; ``overall`` is per device the worst of the packages that
    carry code. ``runtime`` is the CUDA runtime version that chooses among variants, where known.
    """

    devices: tuple[ComputeCapability, ...]
    packages: tuple[PackageCoverage, ...]
    overall: tuple[DeviceCoverage, ...]
    runtime: RuntimeVersion | None = None
    driver_cuda: RuntimeVersion | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchCoverage:
    """Whether an installed torch has code for one device, read from its files.

    ``fit`` is the main library's; ``verdict`` is over all of torch's CUDA libraries. ``cause`` is ``None`` where
    there is code for everything. ``without`` names the libraries that have nothing (or not all) for the device.
    """

    device: ComputeCapability
    fit: Fit
    verdict: CodeVerdict
    cause: Cause | None
    reason: str
    torch: str | None = None
    cuda_runtime: str | None = None
    targets: tuple[CodeTarget, ...] = ()
    binaries: tuple[BinaryFit, ...] = ()
    without: tuple[str, ...] = ()
