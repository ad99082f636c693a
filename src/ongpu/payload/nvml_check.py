"""Start NVML once, in a child, since a broken driver can hang or crash whoever asks. Run by any Python 3.9+.

In: nothing. Out: one line of JSON on standard output: ``library`` (the file loaded), ``library_version`` (NVML's own),
``init`` (the result of ``nvmlInit_v2``), ``count`` (how many devices; null where that failed); or ``error`` with
``code`` and ``reason`` where the library could not be loaded. Status 0 whenever the line was written.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any


def names() -> tuple[str, ...]:
    """Where the library may be."""
    if sys.platform == "win32":
        # Where the driver puts it: System32 for DCH drivers, the folder NVSMI before them.
        return (
            os.path.join(os.environ.get("WINDIR", "C:/Windows"), "System32", "nvml.dll"),  # noqa: PTH118 - one style
            os.path.join(  # noqa: PTH118 - as above
                os.environ.get("PROGRAMFILES", "C:/Program Files"), "NVIDIA Corporation", "NVSMI", "nvml.dll"
            ),
        )
    return ("libnvidia-ml.so.1",)


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


def main() -> dict[str, object]:
    """The answer."""
    problems: list[str] = []
    nvml: Any = None
    for name in names():
        try:
            nvml = ctypes.CDLL(name)
            break
        except OSError as error:
            problems.append(str(error))
    if nvml is None:
        return {"error": {"code": "NVML_ERROR_LIBRARY_NOT_FOUND", "reason": "; ".join(problems)}}
    answer: dict[str, Any] = {"library": file_of("libnvidia-ml.so"), "library_version": None, "count": None}
    version = ctypes.create_string_buffer(96)
    # Answers without a start, so that a mismatch with the kernel module can be named with both versions.
    if nvml.nvmlSystemGetNVMLVersion(version, 96) == 0:
        answer["library_version"] = version.value.decode("ascii", "replace")
    answer["init"] = nvml.nvmlInit_v2()
    if answer["init"] == 0:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
            answer["count"] = count.value
        nvml.nvmlShutdown()
    return answer


if __name__ == "__main__":
    try:
        found = main()
    except AttributeError as error:  # a library of that name without the functions of one
        found = {"error": {"code": "NVML_ERROR_FUNCTION_NOT_FOUND", "reason": str(error)}}
    sys.stdout.write(json.dumps(found) + "\n")
