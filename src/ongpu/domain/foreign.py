"""Whether the driver's libraries are those of the driver: what answers for NVML or CUDA may be something else.

A stand-in for NVML can say anything (NVIDIA ships one itself, for tests), and a cuda-compat libcuda answers a newer
CUDA driver version than the kernel module is of. Neither is an error; both must be said.
"""

from __future__ import annotations

from collections.abc import Iterator

from ongpu.domain.machine import DriverLibrary, Machine


def foreign_libraries(machine: Machine) -> tuple[str, ...]:
    """One sentence for each of the driver's libraries that is not of the version of the kernel module.

    A library that tells no version gives no sentence: nothing is known of it.
    """
    return tuple(_foreign(machine))


def _foreign(machine: Machine) -> Iterator[str]:
    kernel = machine.driver.kernel_mode
    for one in machine.libraries:
        if one.version is None or kernel is None or one.version == kernel:
            continue
        where = f"{one.name} is {one.path} of version {one.version}, the kernel module is of {kernel}"
        if _is_compat(one):
            yield f"{where}: cuda-compat, which runs a newer CUDA on this driver, on data-center GPUs only."
        else:
            yield f"{where}: it is not that driver's own library, and what it says is not that driver's word."


def _is_compat(library: DriverLibrary) -> bool:
    return library.name == "libcuda" and "compat" in library.path.lower()
