"""Ask NVML which driver and which GPUs, in a child, since a broken driver can hang or crash whoever asks.

Run by any Python 3.9+. In: the word ``devices``, or nothing. Out: lines of JSON on standard output. The first, once
NVML has started: ``library`` (the file loaded), ``library_version`` (NVML's own), ``init`` (the result of
``nvmlInit_v2``); or ``error`` with ``code`` and ``reason`` where the library could not be loaded. With ``devices``,
where ``init`` is 0, the first has ``kernel_mode`` too, the kernel-mode driver version, and a second one ``devices`` in
NVML's order: ``index``, ``uuid``, ``name``, ``memory_bytes``, ``compute_capability``, ``pci_bus_id``, ``mig``, each
null where it was refused. In place of what must be told, ``{"refused": CODE}``. Status 0 whenever the last line was
written.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

TYPE_CHECKING = False  # importing typing for it would take as long as asking
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# NVML_ERROR_FUNCTION_NOT_FOUND: what a driver that is too old for a function is taken to answer.
NO_FUNCTION = 13


class RefusedError(Exception):
    """NVML's code, of a question that must be answered."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Memory(ctypes.Structure):
    """``nvmlMemory_t``."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Pci(ctypes.Structure):
    """``nvmlPciInfo_t`` as ``nvmlDeviceGetPciInfo_v3`` fills it."""

    _fields_ = (("legacy", ctypes.c_char * 16), ("numbers", ctypes.c_uint * 5), ("bus_id", ctypes.c_char * 32))


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


class Library:
    """The library's functions, by name."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def code(self, name: str, *arguments: Any) -> int:
        """NVML's answer of one call; an older driver's without the function."""
        function = getattr(self._nvml, name, None)
        return NO_FUNCTION if function is None else int(function(*arguments))

    def asked(self, name: str, *arguments: Any) -> bool:
        """Whether it was answered."""
        return self.code(name, *arguments) == 0

    def ask(self, name: str, *arguments: Any) -> None:
        """Ask what must be answered."""
        code = self.code(name, *arguments)
        if code != 0:
            raise RefusedError(code)

    def text(self, name: str, *before: Any) -> str:
        """A text that must be told."""
        buffer = ctypes.create_string_buffer(96)
        self.ask(name, *before, buffer, 96)
        return buffer.value.decode("utf-8", "replace")

    def number(self, name: str, *before: Any) -> int | None:
        """A number, or None."""
        value = ctypes.c_uint()
        return value.value if self.asked(name, *before, ctypes.byref(value)) else None

    def devices(self) -> list[dict[str, Any]]:
        """Every GPU, in NVML's order; of one that is split by MIG its parts, which CUDA sees in its place."""
        count = ctypes.c_uint()
        self.ask("nvmlDeviceGetCount_v2", ctypes.byref(count))
        found: list[dict[str, Any]] = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            self.ask("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
            whole = self.whole(index, handle)
            parts = [{**whole, **self.identity(part)} for part in self.parts(handle)] if whole["mig"] else []
            found += parts or [whole]
        return found

    def identity(self, handle: Any) -> dict[str, Any]:
        """What a GPU and a part of one have each of its own."""
        memory = Memory()
        told = self.asked("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return {
            "uuid": self.text("nvmlDeviceGetUUID", handle),
            "name": self.text("nvmlDeviceGetName", handle),
            "memory_bytes": memory.total if told else None,
        }

    def whole(self, index: int, handle: Any) -> dict[str, Any]:
        """One GPU."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        known = self.asked("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
        mode, pending = ctypes.c_uint(), ctypes.c_uint()
        split = self.asked("nvmlDeviceGetMigMode", handle, ctypes.byref(mode), ctypes.byref(pending))
        pci = Pci()
        on_bus = self.asked("nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
        return {
            "index": index,
            **self.identity(handle),
            "compute_capability": f"{major.value}.{minor.value}" if known else None,
            "pci_bus_id": pci.bus_id.decode("ascii", "replace") if on_bus else None,
            "mig": split and mode.value != 0,
        }

    def parts(self, handle: Any) -> list[Any]:
        """The parts of a GPU; the places are numbered to the most there may be, and most are empty."""
        found = []
        for index in range(self.number("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            part = ctypes.c_void_p()
            if self.asked("nvmlDeviceGetMigDeviceHandleByIndex", handle, index, ctypes.byref(part)):
                found.append(part)
        return found


def load() -> tuple[Any, list[str]]:
    """The library, or None with what each name answered."""
    problems: list[str] = []
    for name in names():
        try:
            return ctypes.CDLL(name), problems
        except OSError as error:
            problems.append(str(error))
    return None, problems


def start(loaded: Any) -> dict[str, Any]:
    """Start it."""
    answer: dict[str, Any] = {"library": file_of("libnvidia-ml.so"), "library_version": None}
    version = ctypes.create_string_buffer(96)
    # Answers without a start, so that a mismatch with the kernel module can be named with both versions.
    if loaded.nvmlSystemGetNVMLVersion(version, 96) == 0:
        answer["library_version"] = version.value.decode("ascii", "replace")
    answer["init"] = loaded.nvmlInit_v2()
    return answer


def told(ask: Callable[[], Any]) -> Any:
    """An answer, or that it was refused."""
    try:
        return ask()
    except RefusedError as error:
        return {"refused": error.code}


def write(answer: dict[str, Any]) -> None:
    """One line, at once: what comes next may hang."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Ask, and write."""
    loaded, problems = load()
    if loaded is None:
        write({"error": {"code": "NVML_ERROR_LIBRARY_NOT_FOUND", "reason": "; ".join(problems)}})
        return
    try:
        answer = start(loaded)
    except AttributeError as error:  # a library of that name without the functions of one
        write({"error": {"code": "NVML_ERROR_FUNCTION_NOT_FOUND", "reason": str(error)}})
        return
    if answer["init"] != 0 or "devices" not in sys.argv[1:]:
        write(answer)
    else:
        nvml = Library(loaded)
        write({**answer, "kernel_mode": told(lambda: nvml.text("nvmlSystemGetDriverVersion"))})
        write({"devices": told(nvml.devices)})
    if answer["init"] == 0:
        loaded.nvmlShutdown()


if __name__ == "__main__":
    main()
