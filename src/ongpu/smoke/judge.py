"""The judges of what the children said: pure."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Final

from ongpu.domain.arch import ComputeCapability
from ongpu.domain.verdict import Cause, Outcome
from ongpu.machine.process import Completed
from ongpu.smoke.model import Figure, Holding, Product, SmokeCheck, TorchDevice, TorchReading, not_made, read

SIZE: Final = 4096
DTYPES: Final = ("float32", "bfloat16")
# CUDA C++ Programming Guide, "Arithmetic Instructions": bfloat16 from compute capability 8.0 on.
_BFLOAT16_FROM: Final = ComputeCapability(8, 0)


def both(done: Completed) -> str:
    """Both streams as a text file: what was printed, then what was complained of."""
    text = done.stdout.decode("utf-8", "replace")
    complaint = done.stderr.decode("utf-8", "replace")
    return text + (f"--- standard error ---\n{complaint}" if complaint.strip() else "")


def ended_badly(done: Completed) -> tuple[str, Cause | None]:
    """Why a child that should have left a result did not, and the cause its words name."""
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["nothing on standard error"]
    if done.timed_out:
        return f"the child did not end within its limit ({done.seconds:.0f} s) and was killed", None
    ended = f"signal {-done.status}" if done.status < 0 else f"status {done.status}"
    return f"the child ended with {ended} and no result: {last[0][:500]}", classify(both(done))


# What torch, CUDA and Python say, and what it means; the first that is found counts. Read in torch 2.13.0
# (torch/cuda/__init__.py) and among the texts of cudaGetErrorString; the older warnings as public reports quote them.
_MEANINGS: Final = (
    (Cause.CPU_ONLY_TORCH, r"Torch not compiled with CUDA enabled"),
    (
        Cause.WHEEL_NO_ARCH,
        r"no kernel image is available|is not compatible with the current PyTorch installation"
        r"|does not include kernels for this GPU|No published PyTorch CUDA builds"
        r"|The following list shows the CCs this version of PyTorch was built for"
        r"|Minimum and Maximum cuda capability supported|PyTorch no longer supports this GPU"
        r"|unsupported toolchain|device kernel image is invalid",
    ),
    (Cause.DRIVER_TOO_OLD, r"driver on your system is too old|CUDA driver version is insufficient"),
    (Cause.CUDA_VERSION_MISMATCH, r"forward compatibility was attempted on non supported HW"),
    (Cause.DRIVER_BROKEN, r"unsupported display driver / cuda driver combination|system not yet initialized"),
    (Cause.NO_GPU_VISIBLE, r"No CUDA GPUs are available|no CUDA-capable device|Found no NVIDIA driver"),
    (Cause.OUT_OF_MEMORY, r"out of memory"),
    (Cause.DEVICE_BUSY, r"CUDA-capable device\(s\) is/are busy"),
    (Cause.HARDWARE_FAULT, r"uncorrectable ECC error|hardware stack error|GPU has fallen off|GPU is lost"),
    (Cause.PYTHON_ENV, r"ModuleNotFoundError|ImportError|DLL load failed|cannot open shared object file"),
)


def classify(text: str) -> Cause | None:
    """The cause that an error's or a warning's own words name; ``None`` where they name none."""
    return next((cause for cause, words in _MEANINGS if re.search(words, text, re.I)), None)


def chosen_device(reading: TorchReading, uuid: str | None) -> TorchDevice | None:
    """The device that was asked for, as torch names it: the first where none was, the only one where it has no name."""
    if uuid is None or (len(reading.devices) == 1 and reading.devices[0].uuid is None):
        return next(iter(reading.devices), None)
    return next((one for one in reading.devices if one.uuid is not None and _same(one.uuid, uuid)), None)


def judge_torch(reading: TorchReading, *, uuid: str | None) -> SmokeCheck:
    """Whether torch sees the GPU, knows its compute capability, and ran a kernel on it."""
    device = chosen_device(reading, uuid)
    figures: dict[str, Figure] = {
        "torch": reading.torch,
        "cuda_runtime": reading.cuda,
        "cuda_driver": reading.driver,
        "is_available": reading.is_available,
        "device": device.name if device else None,
        "compute_capability": device.compute_capability if device else None,
        "memory_bytes": device.memory_bytes if device else None,
        "arch_list": " ".join(reading.arch_list),
    }

    def refuted(reason: str, cause: Cause | None, *lines: str) -> SmokeCheck:
        return SmokeCheck(
            name="torch_cuda_check",
            outcome=Outcome.REFUTED,
            reason=reason,
            figures=figures,
            cause=cause,
            lines=lines,
        )

    error = reading.error
    if reading.torch is None:
        return refuted(f"torch cannot be imported: {error}", Cause.PYTHON_ENV, error or "")
    if reading.cuda is None:
        built = f"for ROCm {reading.hip}" if reading.hip else "for the CPU only"
        return refuted(f"this torch {reading.torch} is built {built}", Cause.CPU_ONLY_TORCH, *filter(None, (error,)))
    warned = [
        text for text in reading.warnings if classify(text) is Cause.WHEEL_NO_ARCH and _about(text, device, reading)
    ]
    if warned:
        return refuted("torch warns that it has no code for this GPU", Cause.WHEEL_NO_ARCH, *warned)
    if error is not None or not reading.is_available:
        said = error or next(iter(reading.warnings), "torch gives no reason")
        cause = next(filter(None, map(classify, [said, *reading.warnings])), None)
        return refuted(f"torch cannot use CUDA: {said.splitlines()[0]}", cause, said, *reading.warnings)
    if device is None and any(one.uuid is None for one in reading.devices):
        reason = f"torch {reading.torch} names its GPUs by number only, so which of them is {uuid} is not known"
        return SmokeCheck(name="torch_cuda_check", outcome=Outcome.UNKNOWN, reason=reason, figures=figures)
    if device is None:
        seen = ", ".join(f"{one.name} ({one.uuid})" for one in reading.devices) or "none"
        return refuted(f"torch does not see {uuid or 'any GPU'}; it sees {seen}", Cause.NO_GPU_VISIBLE)
    ran = dict(zip((one.index for one in reading.devices), reading.kernel, strict=False))
    if device.index not in ran:
        return refuted("no kernel was tried on the GPU", None)
    problem = ran[device.index]
    if problem is not None:
        return refuted(f"a first kernel failed: {problem.splitlines()[0]}", classify(problem), problem)
    return SmokeCheck(
        name="torch_cuda_check",
        outcome=Outcome.PROVEN,
        reason=f"torch {reading.torch} runs a kernel on {device.name} (compute capability {device.compute_capability})",
        figures=figures,
    )


def _about(warning: str, device: TorchDevice | None, reading: TorchReading) -> bool:
    """Whether a warning may be about this device: not where it names the number or the model of another alone."""
    if device is None:
        return True
    numbers = {int(number) for number in re.findall(r"Found GPU ?(\d+) ", warning)}
    if numbers:
        return device.index in numbers
    others = {one.name for one in reading.devices} - {device.name}
    return device.name in warning or not any(name in warning for name in others)


def _same(one: str, other: str) -> bool:
    return _digits(one) == _digits(other)


def _digits(uuid: str) -> str:
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def bound(dtype: str, size: int) -> float:
    """The largest relative error of a right product; its derivation is in ``payload/matmul_check.py``."""
    return {"float32": 2.0**-24, "bfloat16": 2.0**-8}[dtype] + 4 * math.sqrt(size) * 2.0**-24


def judge_products(
    done: Completed, *, uuid: str | None, capability: ComputeCapability | None = None
) -> tuple[SmokeCheck, ...]:
    """Whether both products were done on the GPU and are right.

    :param capability: the GPU's. Below 8.0 the hardware has no bfloat16: that product is then shown, but not
        required.
    """
    events = [found for line in done.stdout.splitlines() if isinstance(found := _json(line), dict)]
    errors = [one for one in events if one.get("event") == "error"]
    holding = next((read(json.dumps(one), Holding) for one in events if one.get("event") == "holding"), None)
    products = [read(json.dumps(one), Product) for one in events if one.get("event") == "product"]
    checks = []
    for dtype in DTYPES:
        found = next((one for one in products if one is not None and one.dtype == dtype), None)
        name = f"matmul-{dtype}"
        problems = [str(one.get("text")) for one in errors if one.get("dtype") in {None, dtype}]
        if found is not None:
            check = _judge_product(name, found, holding, uuid)
        elif problems:
            check = SmokeCheck(
                name=name,
                outcome=Outcome.REFUTED,
                reason=f"torch refused: {problems[-1].splitlines()[0]}",
                cause=classify(problems[-1]),
                lines=tuple(problems),
            )
        else:
            check = not_made(name, *ended_badly(done))
        if dtype == "bfloat16" and capability is not None and capability < _BFLOAT16_FROM:
            reason = f"{check.reason} (not required: a GPU of compute capability {capability} has no bfloat16)"
            check = dataclasses.replace(check, required=False, reason=reason)
        checks.append(check)
    return tuple(checks)


def _json(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:  # something else that the child, or a library in it, printed
        return None


def _judge_product(name: str, found: Product, holding: Holding | None, uuid: str | None) -> SmokeCheck:
    limit = bound(found.dtype, found.size)
    figures: dict[str, Figure] = {
        "size": found.size,
        "seed": found.seed,
        "device": found.device,
        "seconds": found.seconds,
        "tflops": found.tflops,
        "checked_rows": found.rows,
        "relative_error": found.rows_error,
        "relative_error_projected": found.projected_error,
        "relative_error_bound": limit,
        "not_finite": found.not_finite,
    }
    # NaN is not below anything: each comparison is written so that it then fails.
    wrong = [
        reason
        for good, reason in (
            (found.device.startswith("cuda"), f"the product was done on {found.device}"),
            (found.size == SIZE, f"the product has the size {found.size}"),
            (
                uuid is None or (holding is not None and (holding.uuid is None or _same(holding.uuid, uuid))),
                f"the product was done on {holding.uuid if holding else 'a GPU that was not named'}",
            ),
            (found.rows > 0, "no row was compared"),
            (found.not_finite == 0, f"{found.not_finite} elements are not finite"),
            (found.rows_error <= limit, f"relative error {found.rows_error:.3g} is above {limit:.3g}"),
            (found.projected_error <= limit, f"projected error {found.projected_error:.3g} is above {limit:.3g}"),
        )
        if not good
    ]
    return SmokeCheck(
        name=name,
        outcome=Outcome.REFUTED if wrong else Outcome.PROVEN,
        reason="; ".join(wrong)
        or f"{found.size} x {found.size} is right: relative error {found.rows_error:.2g}, at most {limit:.2g} allowed",
        figures=figures,
    )
