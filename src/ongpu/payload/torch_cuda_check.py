"""What torch says of CUDA, and whether one kernel runs. Run by the Python of the environment that is looked at.

In: nothing. Needs torch, or says that it is missing; imports nothing else that is not Python's own.
Out: lines for people on standard output (they become ``torch_cuda_check.txt``), and as the last line
``ongpu-result: {...}`` with the same facts as JSON: ``torch``, ``cuda``, ``hip``, ``python``, ``cudnn``, ``driver``,
``is_available``, ``devices`` [{``index``, ``name``, ``uuid``, ``compute_capability``, ``memory_bytes``}],
``arch_list``, ``kernel`` [per device: null, or the error], ``warnings`` [text], ``error`` (null, or ``type: text``).
Status 0 whenever the last line was written; whoever reads it judges.
"""

from __future__ import annotations

import ctypes
import json
import platform
import sys
import warnings
from typing import Any


def said(error: BaseException) -> str:
    """An error in one text: its class and its words."""
    return f"{type(error).__name__}: {error}"


def line(name: str, value: object) -> None:
    """One line for people."""
    print(f"{name}: {value}", flush=True)


def driver_version() -> str | None:
    """What the libcuda that torch has loaded answers (13000 for 13.0); torch has no call for it."""
    version = ctypes.c_int()
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        code = cuda.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):  # none: what torch says next tells why, in better words
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}" if code == 0 and version.value else None


def devices(torch: Any, found: dict[str, Any]) -> None:
    """Fill in what torch says of each device, and run one kernel on it."""
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        major, minor = torch.cuda.get_device_capability(index)
        device = {
            "index": index,
            "name": torch.cuda.get_device_name(index),
            "uuid": str(properties.uuid) if hasattr(properties, "uuid") else None,  # older torches name none
            "compute_capability": f"{major}.{minor}",
            "memory_bytes": properties.total_memory,
        }
        found["devices"].append(device)
        for key, value in device.items():
            line(f"device {index} {key}", value)
    for device in found["devices"]:
        index = device["index"]
        try:
            ones = torch.ones(1024, device=f"cuda:{index}")
            total = float((ones + 1).sum().item())
            error = None if total == 2048.0 else f"1024 times (1 + 1) summed to {total}"
        except (RuntimeError, AssertionError) as problem:
            error = said(problem)
        found["kernel"].append(error)
        line(f"device {index} runs a kernel", "yes" if error is None else f"no: {error}")


def check(found: dict[str, Any]) -> None:
    """Fill in everything; raises what torch raises."""
    import torch  # noqa: PLC0415 - its absence is one of the answers

    found["torch"] = torch.__version__
    found["cuda"] = torch.version.cuda
    found["hip"] = getattr(torch.version, "hip", None)
    found["cudnn"] = torch.backends.cudnn.version()
    line("torch version", found["torch"])
    line("CUDA runtime version (torch.version.cuda)", found["cuda"])
    if found["hip"]:
        line("ROCm version (torch.version.hip)", found["hip"])
    line("cuDNN version", found["cudnn"])
    found["is_available"] = bool(torch.cuda.is_available())
    line("torch.cuda.is_available()", found["is_available"])
    if found["cuda"] is not None:
        found["driver"] = driver_version()
        line("CUDA driver version", found["driver"])
    # Without a driver this is empty: torch asks the device first. The list that was compiled in is read from the
    # private call, which needs none.
    flags = torch._C._cuda_getArchFlags() if hasattr(torch._C, "_cuda_getArchFlags") else None
    found["arch_list"] = flags.split() if flags else list(torch.cuda.get_arch_list())
    line("arch list", " ".join(found["arch_list"]) or "none")
    torch.cuda.init()  # raises torch's own reason where CUDA cannot be used
    devices(torch, found)


def main() -> None:
    """Check, and write the two outputs."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": None,
        "cuda": None,
        "hip": None,
        "cudnn": None,
        "driver": None,
        "is_available": None,
        "devices": [],
        "arch_list": [],
        "kernel": [],
        "warnings": [],
        "error": None,
    }
    line("Python version", found["python"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check(found)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer, in its own words
            found["error"] = said(error)
    found["warnings"] = [str(one.message) for one in caught]
    for text in found["warnings"]:
        line("warning", text)
    line("error", found["error"] or "none")
    print("ongpu-result: " + json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    main()
