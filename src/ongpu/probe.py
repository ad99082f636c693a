"""Read a machine: GPUs, driver, system, Pythons. What cannot be read is recorded with the reason, never guessed.

Torch is never imported, and no device gets a context. Drivers are asked in children with a time limit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from ongpu.domain.machine import Device, Driver, DriverLibrary, Machine, Modules, PythonInstall, Unavailable
from ongpu.errors import DoorError
from ongpu.machine import facts
from ongpu.machine.driver_check import START_TIMEOUT_S
from ongpu.machine.host import Host, PlatformFacts
from ongpu.machine.libcuda import CudaDevice, LibcudaReading, ask_libcuda
from ongpu.machine.nvml import AskedNvml, NvmlDevice, NvmlIdentity
from ongpu.machine.process import Processes, RealProcesses
from ongpu.machine.pythons import ask_python, find_pythons

_T = TypeVar("_T")

# The variables that hide a GPU, order GPUs, put code into the process, or change what a run measures. Only these
# are read: an environment holds secrets. What each does, and where that is written:
VARIABLES: Final[Mapping[str, str]] = {
    # CUDA C++ Programming Guide, "CUDA Environment Variables"
    "CUDA_VISIBLE_DEVICES": "hides GPUs from CUDA, and orders the rest",
    "CUDA_DEVICE_ORDER": "decides which GPU a number means",
    "CUDA_LAUNCH_BLOCKING": "makes every kernel launch wait",
    "CUDA_MODULE_LOADING": "decides when code is loaded",
    "CUDA_FORCE_PTX_JIT": "ignores machine code and compiles PTX instead",
    "CUDA_DISABLE_PTX_JIT": "refuses PTX",
    "CUDA_CACHE_DISABLE": "compiles PTX anew in every process",
    # NVIDIA Container Toolkit, "Specialized configurations with Docker"
    "NVIDIA_VISIBLE_DEVICES": "decides which GPUs a container is given",
    "NVIDIA_DRIVER_CAPABILITIES": "decides which driver libraries a container is given",
    "NVIDIA_DISABLE_REQUIRE": "lets a container start under a driver too old for it",
    # NVIDIA MPS, "Environment Variables"
    "CUDA_MPS_PIPE_DIRECTORY": "sends CUDA work through the MPS server",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "gives a process a part of the GPU",
    # What DCGM's software suite refuses as a bad environment, and the loader's own (ld.so(8))
    "CUDA_INJECTION64_PATH": "loads a library into every CUDA process",
    "CUDA_INJECTION32_PATH": "loads a library into every CUDA process",
    "NSIGHT_CUDA_DEBUGGER": "attaches a debugger",
    "CUDA_ENABLE_COREDUMP_ON_EXCEPTION": "writes a core dump on a GPU fault",
    "CUDA_DEVICE_WAITS_ON_EXCEPTION": "hangs on a GPU fault",
    "CUDA_PROFILE": "turns the old profiler on",
    "COMPUTE_PROFILE": "turns the old profiler on",
    "LD_PRELOAD": "loads a library into every process",
    "LD_LIBRARY_PATH": "may put another libcuda in front of the driver's",
    # PyTorch, "CUDA Environment Variables" and "CUDA semantics"
    "PYTORCH_CUDA_ALLOC_CONF": "configures torch's memory allocator",
    "PYTORCH_ALLOC_CONF": "configures torch's memory allocator",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "turns torch's memory allocator off",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "makes is_available() ask NVML",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "makes float32 products less exact",
    # cuBLAS, "Tensor Core Usage"
    "NVIDIA_TF32_OVERRIDE": "forces or forbids TF32 in all of NVIDIA's libraries",
}
_HIDING: Final = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


@dataclass(slots=True)
class _Notes:
    """What could not be read so far."""

    taken: list[Unavailable] = field(default_factory=list)

    def add(self, what: str, reason: str, code: str | None = None) -> None:
        self.taken.append(Unavailable(what=what, reason=reason, code=code))

    def ask(self, what: str, call: Callable[[], _T]) -> _T | None:
        try:
            return call()
        except DoorError as error:
            self.add(what, error.reason, error.code)
            return None


def probe(
    *,
    nvml: Callable[[], NvmlIdentity],
    processes: Processes,
    host: Host,
    python: Path | None = None,
    list_pythons: bool = True,
    name_libraries: bool = True,
    driver_timeout_s: float = START_TIMEOUT_S,
) -> Machine:
    """The machine as it can be read now. Raises nothing of the doors: it is all in ``unavailable``.

    :param nvml: opens NVML (:func:`ongpu.machine.nvml.ask_nvml` is enough); the probe closes what it opened.
    :param python: the interpreter whose environment is looked at, to be named in ``Machine.python``.
    :param list_pythons: whether to look for every interpreter of the host as well.
    :param name_libraries: whether to name the files of the driver that answered, with digests (0.13 s for libcuda).
    :param driver_timeout_s: seconds that the child which asks libcuda may take.
    """
    notes = _Notes()
    known = host.platform()
    environment = host.environment()
    checker = Path(known.executable)
    with ThreadPoolExecutor(max_workers=3) as pool:  # the three slowest questions, which depend on nothing
        try:
            cuda_asked = pool.submit(_libcuda, processes, checker, environment, driver_timeout_s)
            nvml_asked = pool.submit(_nvml, nvml, host if name_libraries else None)
            pythons_asked = pool.submit(find_pythons, host, processes) if list_pythons else None
            machine = _system(host, known, environment, notes)
            cuda_found, cuda_notes = cuda_asked.result()
            driver_version, listed, nvml_file, nvml_notes = nvml_asked.result()
            pythons, python_notes = pythons_asked.result() if pythons_asked else ((), ())
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(processes, RealProcesses):  # else the pool would wait for children that may hang
                processes.end_all()
            raise
    notes.taken += [*nvml_notes, *cuda_notes, *python_notes]
    devices = tuple(_device(one) for one in listed)
    if not devices and cuda_found is not None:
        devices = _from_libcuda(processes, checker, environment, cuda_found, driver_timeout_s)
    modules, module_version, loaded = _modules(host, known, notes, wsl=machine.wsl)
    target: PythonInstall | None = None
    if python is not None:
        target = notes.ask("python", lambda: ask_python(processes, str(python)))
    files = {"libnvidia-ml": nvml_file, "libcuda": cuda_found.library if cuda_found else None}
    libraries = tuple(_libraries(host, notes, files)) if name_libraries else ()
    return Machine(
        os=machine.os,
        arch=machine.arch,
        glibc=machine.glibc,
        os_release=machine.os_release,
        python=target,
        pythons=pythons,
        devices=devices,
        driver=Driver(
            kernel_mode=driver_version or module_version,
            cuda=str(cuda_found.version) if cuda_found and cuda_found.version else None,
            modules=modules,
            loaded=loaded,
        ),
        wsl=machine.wsl,
        container=machine.container,
        variables=tuple((name, environment[name]) for name in VARIABLES if name in environment),
        nvidia_hardware=machine.nvidia_hardware,
        device_files=machine.device_files,
        cuda_visible=_visible(cuda_found),
        libraries=libraries,
        unavailable=tuple(notes.taken),
    )


def _nvml(
    opener: Callable[[], NvmlIdentity], host: Host | None
) -> tuple[str | None, tuple[NvmlDevice, ...], str | None, list[Unavailable]]:
    notes = _Notes()
    door = notes.ask("nvml", opener)
    if door is None:
        return None, (), None, notes.taken
    version = notes.ask("kernel-mode driver version", door.kernel_mode_version)
    devices = notes.ask("devices", door.devices)
    file: str | None = None
    if host is not None:  # loaded by now: into a child, or here
        file = door.library if isinstance(door, AskedNvml) else host.mapped_file("libnvidia-ml.so")
    notes.ask("nvml shutdown", door.close)
    for one in devices or ():
        for name, value in (("memory_bytes", one.memory_bytes), ("compute_capability", one.compute_capability)):
            if value is None:
                notes.add(f"{name} of {one.name}", "NVML refused it")
    return version, devices or (), file, notes.taken


def _libraries(host: Host, notes: _Notes, files: Mapping[str, str | None]) -> Iterator[DriverLibrary]:
    """The driver's files that answered: a stand-in for one must not pass unseen."""
    for name, path in files.items():
        if path is not None:
            digest = notes.ask(f"sha256 of {name}", functools.partial(host.sha256, path))
            yield DriverLibrary(name=name, path=path, version=facts.version_in_name(path), sha256=digest)


def _libcuda(
    processes: Processes, python: Path, environment: Mapping[str, str], timeout_s: float
) -> tuple[LibcudaReading | None, list[Unavailable]]:
    notes = _Notes()
    found = notes.ask(
        "libcuda", lambda: ask_libcuda(processes, python=python, environment=environment, timeout_s=timeout_s)
    )
    if found is not None and found.init != 0:
        notes.add("cuInit", f"cuInit returned {found.init}", found.init_name)
    if found is not None and found.version is None:
        notes.add("CUDA driver version", "libcuda did not tell it")
    return found, notes.taken


def _from_libcuda(
    processes: Processes, python: Path, environment: Mapping[str, str], found: LibcudaReading, timeout_s: float
) -> tuple[Device, ...]:
    """The devices where NVML lists none: asked of libcuda, without what hides them."""
    listed = found.devices
    if any(name in environment for name in _HIDING):
        bare = {name: value for name, value in environment.items() if name not in _HIDING}
        again, _ = _libcuda(processes, python, bare, timeout_s)
        listed = again.devices if again is not None else ()
    return tuple(_device(one) for one in listed)


def _device(one: NvmlDevice | CudaDevice) -> Device:
    uuid = one.uuid if isinstance(one, NvmlDevice) or one.uuid is None else f"GPU-{one.uuid}"
    return Device(
        name=one.name or "a GPU without a name",
        uuid=uuid,
        compute_capability=one.compute_capability,
        memory_bytes=one.memory_bytes,
        pci_bus_id=one.pci_bus_id,
        mig=isinstance(one, NvmlDevice) and one.mig,
    )


def _visible(found: LibcudaReading | None) -> tuple[str, ...] | None:
    """The UUIDs libcuda lists; that it lists none counts as an answer only where it says so itself."""
    if found is None or found.init_name not in {"CUDA_SUCCESS", "CUDA_ERROR_NO_DEVICE"}:
        return None
    listed = tuple(one.uuid for one in found.devices)
    return None if None in listed else tuple(uuid for uuid in listed if uuid is not None)


def _system(host: Host, known: PlatformFacts, environment: Mapping[str, str], notes: _Notes) -> Machine:
    """What the files of the host say; without devices and driver."""
    if known.os != "linux":
        for what in ("PCI bus", "kernel modules", "container"):
            notes.add(what, f"not read on {known.os}")
        return Machine(os=known.os, arch=known.arch)
    if known.glibc is None:
        notes.add("glibc", "the C library is not glibc, or does not tell its version")
    release = notes.ask("os release", lambda: host.read_text("/etc/os-release"))
    kernel = notes.ask("kernel release", lambda: host.read_text("/proc/sys/kernel/osrelease"))
    cgroup = notes.ask("cgroup", lambda: host.read_text("/proc/1/cgroup"))
    marks = frozenset(mark for mark in ("/.dockerenv", "/run/.containerenv") if host.exists(mark))
    wsl = facts.is_wsl(kernel or "")
    return Machine(
        os=known.os,
        arch=known.arch,
        glibc=known.glibc,
        os_release=facts.os_release(release) if release else None,
        wsl=wsl,
        container=facts.container(environment=environment, marks=marks, cgroup=cgroup or ""),
        nvidia_hardware=_hardware(host, notes, wsl=wsl),
        device_files=host.exists("/dev/dxg") if wsl else host.exists("/dev/nvidiactl"),
    )


def _hardware(host: Host, notes: _Notes, *, wsl: bool) -> bool | None:
    if wsl:
        notes.add("PCI bus", "WSL shows no GPU on it; the driver is that of Windows")
        return None
    if host.exists("/proc/device-tree/compatible") and "nvidia,tegra" in (
        notes.ask("device tree", lambda: host.read_text("/proc/device-tree/compatible")) or ""
    ):
        return True
    bus = "/sys/bus/pci/devices"
    names = notes.ask("PCI bus", lambda: host.list_dir(bus))
    if names is None:
        return None
    unread = False
    for name in names:
        try:
            vendor = host.read_text(f"{bus}/{name}/vendor")
            if vendor.strip().lower() == "0x10de" and facts.is_nvidia_display(
                vendor=vendor, device_class=host.read_text(f"{bus}/{name}/class")
            ):
                return True
        except DoorError as error:
            notes.add(f"PCI device {name}", error.reason, error.code)
            unread = True
    return None if unread else False


def _modules(host: Host, known: PlatformFacts, notes: _Notes, *, wsl: bool) -> tuple[Modules, str | None, bool | None]:
    """Flavor, version and presence of NVIDIA's kernel modules."""
    if known.os != "linux":
        return Modules.UNKNOWN, None, None
    if wsl:
        notes.add("kernel modules", "WSL has none of NVIDIA's; the driver is that of Windows")
        return Modules.UNKNOWN, None, None
    try:
        text = host.read_text("/proc/driver/nvidia/version")
    except DoorError as error:
        if error.code != "missing":
            notes.add("kernel modules", error.reason, error.code)
            return Modules.UNKNOWN, None, None
        loaded = notes.ask("loaded modules", lambda: facts.loaded_modules(host.read_text("/proc/modules")))
        if loaded is not None and "nouveau" in loaded:
            notes.add("kernel modules", "NVIDIA's are not loaded; nouveau is, in their place", "nouveau")
        else:
            notes.add("kernel modules", "NVIDIA's are not loaded: /proc/driver/nvidia/version is missing", "missing")
        return Modules.UNKNOWN, None, False
    found = facts.kernel_modules(text)
    if found is None:
        said = (text.splitlines() or [""])[0]
        notes.add("kernel modules", f"/proc/driver/nvidia/version has another shape: {said[:120]!r}")
        return Modules.UNKNOWN, None, True
    return found[0], found[1], True
