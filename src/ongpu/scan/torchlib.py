"""Whether the torch in a folder has code for a GPU, read from its files; torch is never imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

from ongpu.domain.arch import CodeTarget, ComputeCapability, Fit, RuntimeVersion, best_fit
from ongpu.domain.coverage import BinaryCoverage, CodeVerdict, TorchCoverage
from ongpu.domain.verdict import Cause
from ongpu.scan.binary import scan_file
from ongpu.scan.judge import judge_binary

_VERSION: Final = re.compile(r"^__version__(?:\s*:[^=]*)?\s*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
_CUDA: Final = re.compile(r"^cuda(?:\s*:[^=]*)?\s*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
_HIP: Final = re.compile(r"^hip(?:\s*:[^=]*)?\s*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
# .../lib/python3.12/site-packages/torch: the third parent is the folder conda links libraries into.
_PREFIX_DEPTH: Final = 3
_MAIN: Final = re.compile(r"(lib)?torch_cuda(_cu|_cpp)?\.(so|dll)")
_LIBRARIES: Final = re.compile(r"(lib)?(torch_cuda\w*|torch_nvshmem)\.(so|dll)")


def read_torch_version(torch_dir: Path) -> tuple[str | None, str | None, str | None]:
    """``torch/version.py`` without running it: version, CUDA runtime version, HIP version; ``None`` where absent."""
    try:
        text = (torch_dir / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, None, None
    found = [pattern.search(text) for pattern in (_VERSION, _CUDA, _HIP)]
    version, cuda, hip = (match[1] if match else None for match in found)
    return version, cuda, hip


def scan_torch(torch_dir: Path) -> tuple[BinaryCoverage, ...]:
    """torch's own CUDA libraries, by their fat-binary sections, which is where all of its kernels are.

    Wheels keep them in ``torch/lib``; conda may keep them in the environment's own ``lib`` (on Windows,
    ``Library/bin``).
    """
    folders = [torch_dir / "lib"]
    if len(torch_dir.parents) > _PREFIX_DEPTH:
        folders += [torch_dir.parents[2], torch_dir.parents[2] / "Library" / "bin"]
    for folder in folders:
        paths = sorted(path for path in folder.glob("*torch_*") if _LIBRARIES.fullmatch(path.name))
        if any(_MAIN.fullmatch(path.name) for path in paths):
            break
    else:
        paths = []
    return tuple(scan_file(path, deep=False) for path in paths)


def torch_coverage(
    torch_dir: Path, device: ComputeCapability, *, driver_cuda: RuntimeVersion | None = None
) -> TorchCoverage:
    """Whether the torch in ``torch_dir`` (the folder ``torch`` of a site-packages) has code for ``device``.

    A missing or CPU-only torch is an answer with its cause, not an error.
    """
    version, cuda, hip = read_torch_version(torch_dir)
    return judge_torch(
        scan_torch(torch_dir),
        device,
        version=version,
        cuda=cuda,
        hip=hip,
        folder=str(torch_dir),
        driver_cuda=driver_cuda,
    )


def judge_torch(
    libraries: Sequence[BinaryCoverage],
    device: ComputeCapability,
    *,
    version: str | None,
    cuda: str | None,
    hip: str | None = None,
    folder: str = "torch",
    driver_cuda: RuntimeVersion | None = None,
) -> TorchCoverage:
    """The same from what was read: its libraries, and what its ``version.py`` says."""
    main = [one for one in libraries if _MAIN.fullmatch(_name(one.path))]
    targets = main_targets(libraries)
    runtime = _runtime(cuda)
    judged = [judge_binary(one, device, runtime=runtime, driver_cuda=driver_cuda) for one in libraries]
    fits = tuple(one for one in judged if one.verdict is not CodeVerdict.NO_CODE)

    def answer(verdict: CodeVerdict, cause: Cause | None, reason: str, fit: Fit = Fit.NONE) -> TorchCoverage:
        bad = [_name(one.path) for one in fits if one.verdict in (CodeVerdict.NONE, CodeVerdict.PARTIAL)]
        return TorchCoverage(
            device=device,
            fit=fit,
            verdict=verdict,
            cause=cause,
            reason=reason,
            torch=version,
            cuda_runtime=cuda,
            targets=targets,
            binaries=fits,
            without=tuple(bad),
        )

    if version is None and not libraries:
        return answer(CodeVerdict.UNKNOWN, Cause.PYTHON_ENV, f"there is no torch at {folder}")
    if hip is not None:
        return answer(CodeVerdict.NO_CODE, Cause.CPU_ONLY_TORCH, f"torch {version} is built for AMD GPUs (ROCm {hip})")
    if not main and cuda is None:
        return answer(CodeVerdict.NO_CODE, Cause.CPU_ONLY_TORCH, f"torch {version} is a CPU-only build")
    if not main:
        reason = f"torch {version} says it was built with CUDA {cuda}, and its CUDA library is not in {folder}"
        return answer(CodeVerdict.UNKNOWN, Cause.PYTHON_ENV, reason)
    main_fits = [one for one in fits if _MAIN.fullmatch(_name(one.path))]
    if not main_fits or any(one.verdict is CodeVerdict.UNKNOWN for one in main_fits):
        broken = next((text for one in main for text in one.problems), "no CUDA code was found in it")
        return answer(CodeVerdict.UNKNOWN, None, f"torch {version}: {_name(main[0].path)}: {broken}")
    lacking = next((one for one in main_fits if one.verdict is CodeVerdict.NONE), None)
    if lacking is not None:
        reason = f"torch {version}: {_name(lacking.path)} is {lacking.reason}"
        return answer(CodeVerdict.NONE, Cause.WHEEL_NO_ARCH, reason)
    fit = best_fit(targets, device, runtime=runtime)
    gaps = [one for one in fits if one.verdict in (CodeVerdict.NONE, CodeVerdict.PARTIAL)]
    if gaps:
        names = "; ".join(f"{_name(one.path)} ({one.reason})" for one in gaps)
        return answer(CodeVerdict.PARTIAL, None, f"torch {version} has code for {device}, but not in {names}", fit)
    if any(one.verdict is CodeVerdict.JIT for one in main_fits):
        return answer(CodeVerdict.JIT, None, f"torch {version}: {main_fits[0].reason}", Fit.JIT)
    return answer(CodeVerdict.NATIVE, None, f"torch {version} has machine code for {device}", Fit.NATIVE)


def main_targets(libraries: Sequence[BinaryCoverage]) -> tuple[CodeTarget, ...]:
    """What torch's main CUDA library is built for: what torch itself calls its arch list, read from the binary."""
    main = [one for one in libraries if _MAIN.fullmatch(_name(one.path))]
    return tuple(sorted({target for one in main for target in one.targets}))


def _name(path: str) -> str:
    return PurePath(path).name


def _runtime(text: str | None) -> RuntimeVersion | None:
    try:
        return RuntimeVersion.parse(text) if text else None
    except ValueError:
        return None
