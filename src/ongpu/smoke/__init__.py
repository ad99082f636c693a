"""Does this environment compute on this GPU, and rightly? Each check in a child of its own, with a limit in time.

The children are Python of the environment that is looked at (``payload/``). What they say of themselves is not
enough: while the products hold their memory, NVML is asked from here whether that very process holds it.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ongpu.domain.arch import ComputeCapability
from ongpu.domain.verdict import Cause, Outcome
from ongpu.errors import DoorError
from ongpu.machine.nvml import Nvml
from ongpu.machine.process import Processes
from ongpu.smoke.judge import DTYPES, SIZE, both, chosen_device, classify, ended_badly, judge_products, judge_torch
from ongpu.smoke.look import Look, judge_memory
from ongpu.smoke.model import Figure, SmokeCheck, SmokeReport, TorchDevice, TorchReading, not_made, read

__all__ = ["Figure", "SmokeCheck", "SmokeReport", "TorchDevice", "TorchReading", "run_smoke"]

PAYLOAD: Final = Path(__file__).parent.parent / "payload"
_RESULT: Final = re.compile(r"^ongpu-result: (\{.*\})\s*$", re.M)
# Removed for the children alone: the first two would make the float32 product less exact than float32, the last
# could end a child over a warning that has nothing to do with the GPU.
_LEFT_OUT: Final = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "PYTHONWARNINGS")


def run_smoke(
    *,
    python: Path,
    uuid: str | None,
    nvml: Nvml | None,
    processes: Processes,
    environment: Mapping[str, str],
    timeout_s: float = 180.0,
) -> SmokeReport:
    """Run every check on one GPU. Raises nothing of the doors: a check that could not be made says why.

    :param python: the interpreter of the environment that is looked at; ongpu need not be installed there.
    :param uuid: which GPU, as NVML names it (``GPU-...``); ``None`` takes the first that torch sees.
    :param nvml: who is asked about the process; with ``None`` that check is unknown.
    :param environment: the children's environment, less what makes float32 less exact than float32.
    :param timeout_s: seconds for each of the two children.
    """
    child_environment = {name: value for name, value in environment.items() if name not in _LEFT_OUT}
    child_environment["PYTHONIOENCODING"] = "utf-8"
    first, reading, text = _torch_check(python, uuid, processes, child_environment, timeout_s)
    texts = {"torch_cuda_check.txt": text}
    if first.outcome is not Outcome.PROVEN:
        names = [*(f"matmul-{dtype}" for dtype in DTYPES), "process-memory"]
        later = [not_made(name, f"not run: torch_cuda_check is {first.outcome}", first.cause) for name in names]
        return SmokeReport(checks=(first, *later), torch=reading, texts=texts)
    try:
        with tempfile.TemporaryDirectory(prefix="ongpu-smoke-") as folder:
            look = Look(nvml=nvml, uuid=uuid, release=Path(folder) / "release")
            argv = [str(python), str(PAYLOAD / "matmul_check.py"), "--release", str(look.release), "--size", str(SIZE)]
            done = processes.run(
                [*argv, *(["--uuid", uuid] if uuid else [])],
                timeout_s=timeout_s,
                env=child_environment,
                on_output=look.take,
                on_start=look.start,
            )
    except (DoorError, OSError) as error:  # no child, or no room for the one file that lets it go on
        why, cause = (error.reason, Cause.PYTHON_ENV) if isinstance(error, DoorError) else (str(error), None)
        names = [*(f"matmul-{dtype}" for dtype in DTYPES), "process-memory"]
        later = [not_made(name, f"not run: {why}", cause) for name in names]
        return SmokeReport(checks=(first, *later), torch=reading, texts=texts)
    texts["matmul_check.txt"] = both(done)
    device = chosen_device(reading, uuid) if reading is not None else None
    capability = ComputeCapability.parse(device.compute_capability) if device is not None else None
    checks = (first, *judge_products(done, uuid=uuid, capability=capability), judge_memory(look.seen))
    return SmokeReport(checks=checks, torch=reading, texts=texts)


def _torch_check(
    python: Path, uuid: str | None, processes: Processes, environment: Mapping[str, str], timeout_s: float
) -> tuple[SmokeCheck, TorchReading | None, str]:
    name = "torch_cuda_check"
    try:
        done = processes.run((str(python), str(PAYLOAD / "torch_cuda_check.py")), timeout_s=timeout_s, env=environment)
    except DoorError as error:
        return not_made(name, f"Python could not be started: {error.reason}", Cause.PYTHON_ENV), None, f"{error}\n"
    text = both(done)
    found = _RESULT.findall(done.stdout.decode("utf-8", "replace"))
    reading = read(found[-1], TorchReading) if found else None
    if reading is None:
        reason, cause = ended_badly(done)
        return not_made(name, reason, cause), None, text
    # Most warnings come as such; what C++ or a site hook wrote past them counts as well.
    complaint = done.stderr.decode("utf-8", "replace")
    if classify(complaint) is Cause.WHEEL_NO_ARCH:
        reading = dataclasses.replace(reading, warnings=(*reading.warnings, complaint))
    return judge_torch(reading, uuid=uuid), reading, text
