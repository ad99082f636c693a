"""Which device trains. ``cuda`` never becomes anything else, and a GPU that cannot be used is a named cause.

The CPU is taken where it was asked for, or by ``auto`` where this machine has no NVIDIA GPU at all. A GPU that is
there and cannot be used is a reason to stop, for ``auto`` too: that is how silent CPU training begins.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ongpu.domain.arch import CodeTarget, ComputeCapability, Fit, RuntimeVersion, best_fit
from ongpu.domain.verdict import Cause
from ongpu.errors import BlockedError

UNSUPPORTED_WARNING: Final = re.compile(
    r"of cuda capability \d+\.\d+|CUDA capability sm_\d+ is not compatible|"
    r"not compatible with the current PyTorch installation|no longer supports this GPU",
    re.IGNORECASE,
)
"""torch's own warnings about a device its build has no code for (``torch.cuda._check_capability`` and
``_check_cubins``, read in 2.7 to 2.15)."""

_CAUSES: Final[tuple[tuple[str, Cause], ...]] = (
    (r"no kernel image is available|invalid device function|device kernel image is invalid", Cause.WHEEL_NO_ARCH),
    (r"not compiled with CUDA enabled", Cause.CPU_ONLY_TORCH),
    (r"driver on your system is too old|driver version is insufficient", Cause.DRIVER_TOO_OLD),
    (r"no CUDA GPUs are available|no CUDA-capable device|invalid device ordinal", Cause.NO_GPU_VISIBLE),
    (r"found no NVIDIA driver", Cause.DRIVER_BROKEN),
    (r"unsupported display driver|forward compatibility was attempted", Cause.DRIVER_BROKEN),
    (r"driver initialization failed|not yet initialized|driver/library version mismatch", Cause.DRIVER_BROKEN),
    (r"out of memory", Cause.OUT_OF_MEMORY),
    (r"busy or unavailable", Cause.DEVICE_BUSY),
    (r"uncorrectable|unspecified launch failure|illegal instruction|hardware stack error", Cause.HARDWARE_FAULT),
    (r"libcu\w+\.so|undefined symbol", Cause.CUDA_VERSION_MISMATCH),
)
_NEXT: Final = {
    Cause.WHEEL_NO_ARCH: "Run 'ongpu plan' for a PyTorch build that has code for this GPU.",
    Cause.CPU_ONLY_TORCH: "Run 'ongpu plan' for a CUDA build of PyTorch, and install it in a fresh environment.",
    Cause.DRIVER_TOO_OLD: "Update the NVIDIA driver, or run 'ongpu plan' for a build this driver can run.",
    Cause.DRIVER_BROKEN: "Make nvidia-smi work first (often a reboot after a driver update), then run this again.",
    Cause.NO_GPU_VISIBLE: "Make a GPU visible to this process, or train on the CPU knowingly with --device cpu.",
    Cause.OUT_OF_MEMORY: "End the programs nvidia-smi lists on the GPU, or take a smaller batch_size.",
    Cause.MULTI_GPU_COMM: "Start one process a GPU, and let the launcher set LOCAL_RANK.",
    Cause.DEVICE_BUSY: "End the program that holds the GPU (nvidia-smi lists it), then run this again.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The device of a run. ``notes`` are lines worth printing, ``title`` is the device's own name.

    ``uuid`` is empty where there is none to be had: on the CPU, and from a torch that does not tell it.
    """

    kind: str
    title: str
    notes: tuple[str, ...] = ()
    uuid: str = ""
    memory_bytes: int | None = None


def choose(requested: str, *, hardware: bool | None, variables: Mapping[str, str], local_rank: int = 0) -> Chosen:
    """The device for ``cuda``, ``cpu`` or ``auto``; a GPU becomes the current one of this process.

    :param hardware: whether an NVIDIA GPU is in this machine (``None``: it could not be found out).
    :param variables: the environment, read for what hides GPUs.
    :param local_rank: the number of this process among those of its host: that of its GPU, or else the only one.
    :raises BlockedError: with the cause, where a GPU was asked for or is there, and cannot be used.
    """
    import torch  # noqa: PLC0415 - the configuration is checked before torch is imported

    if requested == "cpu" or (requested == "auto" and hardware is False):
        note = () if requested == "cpu" else ("There is no NVIDIA GPU in this machine, so 'auto' takes the CPU.",)
        return Chosen(kind="cpu", title=f"CPU, {torch.get_num_threads()} threads", notes=note)
    if not torch.version.cuda:
        build = "is a ROCm build" if getattr(torch.version, "hip", None) else "is a CPU-only build"
        if hardware is False:
            raise _blocked(
                Cause.NO_GPU_VISIBLE,
                f"There is no NVIDIA GPU in this machine (and torch {torch.__version__} {build}).",
            )
        raise _blocked(Cause.CPU_ONLY_TORCH, f"torch {torch.__version__} {build}: it cannot use an NVIDIA GPU.")
    try:
        return _cuda(variables, local_rank)
    except BlockedError as error:
        if hardware is False and error.cause == Cause.DRIVER_BROKEN:
            # torch can only say that there is no driver; that there is nothing for it to drive is known here
            raise _blocked(Cause.NO_GPU_VISIBLE, "There is no NVIDIA GPU in this machine.", error.lines) from None
        raise


def load_libraries(device: Any) -> None:
    """Have cuBLAS loaded now, while weights are still drawn, and not by the first step."""
    import torch  # noqa: PLC0415 - as in choose

    if device.type == "cuda":
        for dtype in (torch.bfloat16, torch.float32):
            square = torch.zeros(64, 64, dtype=dtype, device=device)
            torch.addmm(square[0], square, square)


def _cuda(variables: Mapping[str, str], local_rank: int) -> Chosen:
    import torch  # noqa: PLC0415 - see choose

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            torch.cuda.init()
            index = _index(local_rank, torch.cuda.device_count())
            torch.cuda.set_device(index)
            name = torch.cuda.get_device_name(index)
            capability = ComputeCapability(*torch.cuda.get_device_capability(index))
        except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
            raise explain_failure(error, variables=variables) from None
    refuse_unsupported([str(one.message) for one in caught])
    targets = [CodeTarget.parse(text) for text in torch.cuda.get_arch_list() if _is_target(text)]
    if targets and best_fit(targets, capability, runtime=RuntimeVersion.parse(torch.version.cuda)) is Fit.NONE:
        listed = " ".join(str(target) for target in targets)
        raise _blocked(
            Cause.WHEEL_NO_ARCH,
            f"torch {torch.__version__} has no code for {name} (compute capability {capability}): "
            f"it was built for {listed}.",
        )
    try:
        total = float((torch.ones(1024, device="cuda") * 2).sum().item())
    except RuntimeError as error:
        raise explain_failure(error, variables=variables) from None
    if total != 2048.0:
        raise _blocked(Cause.HARDWARE_FAULT, f"{name} computed {total} where 2048 is right.")
    properties = torch.cuda.get_device_properties(index)
    memory_gib = properties.total_memory / 2**30
    title = f"{name} (compute capability {capability}, {memory_gib:.1f} GiB)"
    notes = [f"torch warning: {one.message}" for one in caught]
    if variables.get("NVIDIA_TF32_OVERRIDE") == "1":
        notes.append("NVIDIA_TF32_OVERRIDE=1 is set: float32 products are rounded to TF32 whatever this run asks for.")
    uuid = getattr(properties, "uuid", None)  # torch tells it from 2.4
    return Chosen(
        kind="cuda",
        title=title,
        notes=tuple(notes),
        uuid=f"GPU-{uuid}" if uuid else "",
        memory_bytes=properties.total_memory,
    )


def refuse_mixed(crew: Sequence[Mapping[str, str]]) -> None:
    """Raise where a rank trains on the CPU beside others on GPUs, or two share a GPU; ``crew`` is what each said."""
    kinds = {one["device"] for one in crew}
    if len(kinds) > 1:
        lacking = next(rank for rank, one in enumerate(crew) if one["device"] == "cpu")
        raise _blocked(
            Cause.NO_GPU_VISIBLE, f"Rank {lacking} on {crew[lacking]['host']} has no GPU, and other ranks have one."
        )
    taken: dict[tuple[str, str], int] = {}
    for rank, one in enumerate(crew):
        key = (one["host"], one["uuid"])
        if one["uuid"] and key in taken:
            raise _blocked(
                Cause.MULTI_GPU_COMM, f"Ranks {taken[key]} and {rank} were both given {one['uuid']} of {one['host']}."
            )
        taken[key] = rank


def _index(local_rank: int, count: int) -> int:
    """The GPU of a local rank: its own, or the only one a launcher left it to see."""
    if local_rank < count:
        return local_rank
    if count == 1:
        return 0
    raise _blocked(Cause.NO_GPU_VISIBLE, f"Local rank {local_rank} has no GPU: this process sees {count}.")


def cause_of(text: str) -> Cause:
    """The cause a CUDA error's text names; ``UNDETERMINED`` where it names none."""
    return next((cause for pattern, cause in _CAUSES if re.search(pattern, text, re.IGNORECASE)), Cause.UNDETERMINED)


def explain_failure(error: BaseException, *, variables: Mapping[str, str]) -> BlockedError:
    """A CUDA failure as an error with a named cause, and the environment variable that explains it."""
    lines = tuple(line for line in str(error).splitlines() if line.strip()) or (type(error).__name__,)
    cause = cause_of(str(error))
    hidden = ""
    if cause is Cause.NO_GPU_VISIBLE and "CUDA_VISIBLE_DEVICES" in variables:
        hidden = f" CUDA_VISIBLE_DEVICES is set to {variables['CUDA_VISIBLE_DEVICES']!r}, which hides GPUs."
    return _blocked(cause, f"The GPU cannot be used: {lines[0].rstrip('.')}.{hidden}", lines)


def explain_full_host(error: BaseException) -> BlockedError:
    """torch's failure to get memory of the machine itself, with what it asked for."""
    asked = re.search(r"allocate (\d+) bytes", str(error))
    much = f": {int(asked[1]) / 2**30:,.1f} GiB were asked for at once" if asked else ""
    return BlockedError(
        f"The memory of this machine (not of a GPU) is not enough{much}.",
        next_step="Take a smaller model or batch_size, or a machine with more memory.",
        cause=Cause.OUT_OF_MEMORY.value,
    )


def refuse_unsupported(messages: Sequence[str]) -> None:
    """Raise where torch warned that its build has no code for a GPU."""
    for message in messages:
        if UNSUPPORTED_WARNING.search(message):
            lines = tuple(line.strip() for line in message.splitlines() if line.strip())
            raise _blocked(Cause.WHEEL_NO_ARCH, f"torch warns that it does not support the GPU: {lines[0]}", lines)


@contextmanager
def watched_warnings() -> Iterator[list[str]]:
    """Collect every warning's text while still showing it, so that a late one about the GPU ends the run."""
    seen: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        shown = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            seen.append(str(message))
            shown(message, category, *where, **more)

        warnings.showwarning = keep
        yield seen


def nvidia_hardware(*, root: Path = Path("/"), platform: str = sys.platform) -> bool | None:
    """Whether an NVIDIA GPU is in this machine, whatever its driver does. ``None``: it could not be found out.

    Linux: a display or 3D controller (PCI class 0x03) of vendor 0x10de, a device file of the driver, or WSL's
    libcuda beside ``/dev/dxg``. Windows: a display adapter of that vendor.
    """
    if platform == "darwin":
        return False
    if platform == "win32":
        return _windows_adapter()
    if any(root.glob("dev/nvidia[0-9]*")):
        return True
    if (root / "dev/dxg").exists():
        return (root / "usr/lib/wsl/lib/libcuda.so.1").exists() or None
    found: bool | None = None
    for vendor in root.glob("sys/bus/pci/devices/*/vendor"):
        try:
            if vendor.read_text().strip() == "0x10de" and (vendor.parent / "class").read_text().startswith("0x03"):
                return True
        except OSError:
            return None
        found = False
    if found is None and (root / "sys/class").is_dir():
        return any(root.glob("proc/driver/nvidia/gpus/*"))
    return found


def _windows_adapter() -> bool | None:
    import winreg  # noqa: PLC0415 - exists on Windows only

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Enum\PCI") as key:  # type: ignore[attr-defined,unused-ignore]
            count = winreg.QueryInfoKey(key)[0]  # type: ignore[attr-defined,unused-ignore]
            names = [str(winreg.EnumKey(key, index)).upper() for index in range(count)]  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return None
    # the registry keeps adapters that were taken out: presence here asks for an explicit --device cpu, no more
    return any(name.startswith("VEN_10DE") for name in names)


def _is_target(text: str) -> bool:
    try:
        CodeTarget.parse(text)
    except ValueError:
        return False
    return True


def _blocked(cause: Cause, message: str, lines: tuple[str, ...] = ()) -> BlockedError:
    step = _NEXT.get(cause, "Run 'ongpu doctor' on this machine, or read the lines above.")
    return BlockedError(message, next_step=step, cause=cause.value, lines=lines)
