"""The facts of the catalog, one class a table. A row carries where it was read and when."""

from __future__ import annotations

from dataclasses import dataclass

from ongpu.domain.arch import CodeTarget, ComputeCapability, RuntimeVersion

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRow:
    """One model name as the driver prints it.

    ``kind`` is ``consumer``, ``laptop``, ``workstation``, ``datacenter``, ``embedded``, ``jetson`` ...;
    ``memory_bytes`` is ``None`` where the catalog does not know it. ``first_driver_linux`` is the first release
    whose documentation lists the model: earlier ones of the same branch may know it all the same.
    """

    name: str
    compute_capability: ComputeCapability
    kind: str
    memory_bytes: int | None
    first_driver_linux: Version | None
    checked: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRow:
    """What the driver asks of one compute capability.

    ``first_branch`` and ``last_branch`` are driver branches such as 570; ``None`` means no bound is known.
    ``modules`` is the kernel-module flavor it needs on Linux: ``open``, ``proprietary``, ``either``, or
    ``integrated`` (Jetson: the driver comes with JetPack). ``first_toolkit`` and ``last_toolkit`` bound the
    CUDA toolkits that can make code for it.
    """

    compute_capability: ComputeCapability
    generation: str
    first_branch: int | None
    last_branch: int | None
    modules: str
    integrated: bool
    first_toolkit: RuntimeVersion | None
    last_toolkit: RuntimeVersion | None
    checked: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchRow:
    """One driver branch and the CUDA driver version it answers."""

    branch: int
    cuda: RuntimeVersion
    note: str
    checked: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolkitRow:
    """One CUDA toolkit release: the driver it came with, and the oldest that runs its programs.

    ``min_*`` is the driver for everything, PTX included; ``compat_*`` the floor of minor-version compatibility.
    """

    cuda: RuntimeVersion
    update: str
    min_linux: Version | None
    min_windows: Version | None
    compat_linux: Version
    compat_windows: Version
    checked: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompanionRow:
    """One release of torchvision or torchaudio, and the torch releases it goes with.

    ``torch`` is a version specifier: ``==2.13.0`` for a pinned pair, ``>=2.14.0`` for a stable-ABI release.
    ``targets`` is the CUDA code read in PyPI's own variant, whose CUDA tag is ``read_tag``; both empty where
    nothing was read. ``cuda_code`` is false for a release that has no CUDA code of its own.
    """

    name: str
    version: str
    torch: str
    cuda_code: bool
    read_tag: str
    targets: tuple[CodeTarget, ...]
    checked: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GlibcRow:
    """The glibc that Linux wheels ask for, from a torch release on; empty ``arch`` or ``cuda_tag``: any.

    Of the rows that apply to a build, the last one holds.
    """

    torch_from: Version
    arch: str
    cuda_tag: str
    glibc: Version
    checked: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetiredRow:
    """An index folder that gets no new builds: what it carried, and until when. Empty targets: they varied."""

    cuda_tag: str
    channel: str
    torch_from: str
    torch_to: str
    date_to: str
    targets: tuple[CodeTarget, ...]
    checked: str
    source: str
