"""Whether the torch in a folder has code for a GPU, read from its files; torch is never imported."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Final

from ongpu.domain.arch import CodeTarget, ComputeCapability, Fit, RuntimeVersion, best_fit
from ongpu.domain.coverage import BinaryFit, CodeVerdict, TorchCoverage
from ongpu.domain.verdict import Cause
from ongpu.scan.binary import scan_file
from ongpu.scan.judge import judge_binary

_VERSION: Final = re.compile(r"^__version__(?:\s*:[^=]*)?\s*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
_CUDA: Final = re.compile(r"^cuda(?:\s*:[^=]*)?\s*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
_HIP: Final = re.compile(r"^hip(?:\s*:[^=]*)?\s*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
_MAIN: Final = re.compile(r"(lib)?torch_cuda(_cu|_cpp)?\.(so|dll)")
_LIBRARIES: Final = re.compile(r"(lib)?(torch_cuda\w*|torch_nvshmem|c10_cuda)\.(so|dll)")


def read_torch_version(torch_dir: Path) -> tuple[str | None, str | None, str | None]:
    """``torch/version.py`` without running it: version, CUDA runtime version, HIP version; ``None`` where absent."""
    try:
        text = (torch_dir / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, None, None
    found = [pattern.search(text) for pattern in (_VERSION, _CUDA, _HIP)]
    version, cuda, hip = (match[1] if match else None for match in found)
    return version, cuda, hip


def torch_coverage(
    torch_dir: Path, device: ComputeCapability, *, driver_cuda: RuntimeVersion | None = None
) -> TorchCoverage:
    """Whether the torch in ``torch_dir`` (the folder ``torch`` of a site-packages) has code for ``device``.

    A missing or CPU-only torch is an answer with its cause, not an error. Only the fat-binary sections are read,
    which is where all of torch's kernels are.
    """
    version, cuda, hip = read_torch_version(torch_dir)
    libraries = sorted(path for path in (torch_dir / "lib").glob("*") if _LIBRARIES.fullmatch(path.name))

    targets: tuple[CodeTarget, ...] = ()

    def answer(
        verdict: CodeVerdict, cause: Cause | None, reason: str, fits: tuple[BinaryFit, ...] = (), fit: Fit = Fit.NONE
    ) -> TorchCoverage:
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
            without=tuple(
                PurePath(one.path).name for one in fits if one.verdict in (CodeVerdict.NONE, CodeVerdict.PARTIAL)
            ),
        )

    if version is None and not libraries:
        return answer(CodeVerdict.UNKNOWN, Cause.PYTHON_ENV, f"there is no torch in {torch_dir.parent}")
    if hip is not None:
        return answer(CodeVerdict.NO_CODE, Cause.CPU_ONLY_TORCH, f"torch {version} is built for AMD GPUs (ROCm {hip})")
    if not any(_MAIN.fullmatch(path.name) for path in libraries):
        if cuda is None:
            return answer(CodeVerdict.NO_CODE, Cause.CPU_ONLY_TORCH, f"torch {version} is a CPU-only build")
        return answer(
            CodeVerdict.UNKNOWN,
            Cause.PYTHON_ENV,
            f"torch {version} says it was built with CUDA {cuda}, and its CUDA library is not in {torch_dir / 'lib'}",
        )
    runtime = _runtime(cuda)
    coverages = [scan_file(path, deep=False) for path in libraries]
    main = [one for one in coverages if _MAIN.fullmatch(PurePath(one.path).name)]
    targets = tuple(sorted({target for one in main for target in one.targets}))
    fits = tuple(
        fit
        for fit in (judge_binary(one, device, runtime=runtime, driver_cuda=driver_cuda) for one in coverages)
        if fit.verdict is not CodeVerdict.NO_CODE
    )
    main_fits = [fit for fit in fits if _MAIN.fullmatch(PurePath(fit.path).name)]
    fit = best_fit(targets, device, runtime=runtime)
    if not main_fits or any(one.verdict is CodeVerdict.UNKNOWN for one in main_fits):
        broken = next((text for one in main for text in one.problems), "no CUDA code was found in it")
        return answer(CodeVerdict.UNKNOWN, None, f"torch {version}: {PurePath(main[0].path).name}: {broken}", fits, fit)
    if any(one.verdict is CodeVerdict.NONE for one in main_fits):
        worst = next(one for one in main_fits if one.verdict is CodeVerdict.NONE)
        reason = f"torch {version}: {PurePath(worst.path).name} is {worst.reason}"
        return answer(CodeVerdict.NONE, Cause.WHEEL_NO_ARCH, reason, fits, Fit.NONE)
    gaps = [one for one in fits if one.verdict in (CodeVerdict.NONE, CodeVerdict.PARTIAL)]
    if gaps:
        names = "; ".join(f"{PurePath(one.path).name}: {one.reason}" for one in gaps)
        return answer(CodeVerdict.PARTIAL, None, f"torch {version} runs on {device}, except {names}", fits, fit)
    if any(one.verdict is CodeVerdict.JIT for one in main_fits):
        return answer(CodeVerdict.JIT, None, f"torch {version}: {main_fits[0].reason}", fits, Fit.JIT)
    return answer(CodeVerdict.NATIVE, None, f"torch {version} has machine code for {device}", fits, Fit.NATIVE)


def _runtime(text: str | None) -> RuntimeVersion | None:
    try:
        return RuntimeVersion.parse(text) if text else None
    except ValueError:
        return None
