"""Ask the CUDA driver library who it is. Run by any Python 3.9+, in a child, since a broken driver can hang or crash.

In: nothing (the environment decides which library is loaded and which devices it shows).
Out: one line of JSON on standard output: ``library`` (the file loaded), ``version`` (``cuDriverGetVersion``, 13000
for 13.0), ``init`` and ``init_name`` (the result of ``cuInit``), ``devices`` in CUDA's order, each ``name``,
``uuid``, ``compute_capability``, ``memory_bytes``, ``pci_bus_id``; or ``error`` with ``code`` and ``reason`` where
the library could not be loaded. No context is created on any device. Status 0 whenever the line was written.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

TYPE_CHECKING = False  # importing typing for it would take as long as asking
if TYPE_CHECKING:
    from typing import Any

LINUX = ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1")


def load() -> tuple[Any, list[str]]:
    """The library, or None with what each name answered."""
    if sys.platform == "win32":
        names = ("nvcuda.dll",)
    else:
        names = LINUX
    problems: list[str] = []
    for name in names:
        try:
            return ctypes.CDLL(name), problems
        except OSError as error:
            problems.append(str(error))
    return None, problems


def file_of(part: str) -> str | None:
    """The path of a library mapped into this process, or None."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123 - any Python 3.9
            for line in maps:
                if part in line:
                    return os.path.realpath(line.split(None, 5)[5].strip())
    except OSError:
        pass
    return None


def error_name(cuda: Any, code: int) -> str:
    """The library's name of one of its results."""
    name = ctypes.c_char_p()
    if cuda.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value:
        return name.value.decode("ascii", "replace")
    return f"CUDA_ERROR_{code}"


def attribute(cuda: Any, which: int, device: Any) -> int | None:
    """One attribute of a device, None where it is refused."""
    value = ctypes.c_int()
    return value.value if cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device) == 0 else None


def describe(cuda: Any, ordinal: int) -> dict[str, object]:
    """One device, without a context on it."""
    device = ctypes.c_int()
    code = cuda.cuDeviceGet(ctypes.byref(device), ordinal)
    if code != 0:
        return {"error": error_name(cuda, code)}
    name = ctypes.create_string_buffer(256)
    uuid = (ctypes.c_ubyte * 16)()
    memory = ctypes.c_size_t()
    bus = ctypes.create_string_buffer(32)
    get_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
    major, minor = attribute(cuda, 75, device), attribute(cuda, 76, device)
    digits = None
    if get_uuid(uuid, device) == 0:
        digits = bytes(uuid).hex()
        digits = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return {
        "name": name.value.decode("utf-8", "replace") if cuda.cuDeviceGetName(name, 256, device) == 0 else None,
        "uuid": digits,
        "compute_capability": f"{major}.{minor}" if major is not None and minor is not None else None,
        "memory_bytes": memory.value if cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device) == 0 else None,
        "pci_bus_id": bus.value.decode("ascii", "replace") if cuda.cuDeviceGetPCIBusId(bus, 32, device) == 0 else None,
    }


def main() -> dict[str, object]:
    """The answer."""
    cuda, problems = load()
    if cuda is None:
        return {"error": {"code": "not-found", "reason": "; ".join(problems)}}
    answer: dict[str, Any] = {"library": file_of("libcuda.so"), "version": None, "devices": []}
    version = ctypes.c_int()
    code = cuda.cuDriverGetVersion(ctypes.byref(version))
    if code == 0:
        answer["version"] = version.value
    else:
        answer["version_error"] = error_name(cuda, code)
    code = cuda.cuInit(0)
    answer["init"], answer["init_name"] = code, error_name(cuda, code)
    if code == 0:
        count = ctypes.c_int()
        code = cuda.cuDeviceGetCount(ctypes.byref(count))
        if code != 0:
            answer["count_error"] = error_name(cuda, code)
        answer["devices"] = [describe(cuda, ordinal) for ordinal in range(count.value)]
    return answer


if __name__ == "__main__":
    try:
        found = main()
    except AttributeError as error:  # a library of that name without the functions of one
        found = {"error": {"code": "not-libcuda", "reason": str(error)}}
    sys.stdout.write(json.dumps(found) + "\n")
