"""Reading the device code of an environment for `doctor`: headers only, torch never imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ongpu.catalog import Catalog
from ongpu.doctor.join import doctor, with_smoke
from ongpu.doctor.report import DoctorReport, InstalledCode
from ongpu.domain.environment import Environment
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Outcome
from ongpu.domain.visible import visible_devices
from ongpu.errors import DoorError
from ongpu.machine.nvml import Nvml
from ongpu.machine.process import Processes
from ongpu.scan import displaced_libraries, scan_paths, scan_torch

if TYPE_CHECKING:  # the room itself is imported by `--deep` alone
    from ongpu.smoke.model import SmokeCheck

# NVIDIA's libraries are pinned by torch and made for every GPU that torch is made for; `scan` reads them.
_WITH_TORCH: Final = ("nvidia-", "cuda-", "triton")


def as_started(environment: Environment) -> Environment:
    """The environment as a program sees it that is started here: what ``PYTHONPATH`` puts in front of it counts."""
    ahead = environment.ahead
    if ahead is None:
        return environment
    hiding = {one.name for one in ahead.packages} | ({"torch"} if ahead.torch is not None else set())
    rest = (one for one in environment.packages if one.name not in hiding)
    return replace(
        environment,
        site_packages=(*ahead.folders, *environment.site_packages),
        packages=tuple(sorted((*ahead.packages, *rest), key=lambda one: one.name)),
        torch=ahead.torch or environment.torch,
        problems=(*environment.problems, *ahead.problems),
    )


def read_code(environment: Environment, *, deep: bool = False, library_path: str = "") -> InstalledCode:
    """Read what the environment's packages carry.

    :param deep: also search the data outside the fat-binary sections, which takes a second or two more.
    :param library_path: the value of ``LD_LIBRARY_PATH``.
    """
    folders = [Path(one) for one in (*environment.site_packages, *environment.added) if Path(one).is_dir()]
    own = Path(environment.torch.path) if environment.torch is not None else None
    in_front = environment.ahead.folders if environment.ahead is not None else ()
    torch_folders = [
        folder / "torch"
        for folder in folders
        if str(folder) not in in_front and (folder / "torch" / "version.py").is_file()
    ]
    torch_folders.sort(key=lambda one: one != own)
    torch = scan_torch(own) if own is not None else ()
    others = frozenset(
        one.name for one in environment.packages if one.name != "torch" and not one.name.startswith(_WITH_TORCH)
    )
    packages = scan_paths(folders, deep=deep, names=others, libraries_only=not deep) if folders and others else None
    return InstalledCode(
        torch=torch,
        packages=packages,
        torch_folders=tuple(str(one) for one in torch_folders),
        displaced=displaced_libraries(own, library_path) if own is not None and library_path else (),
    )


def examine(
    python: Path,
    *,
    machine: Callable[[], Machine],
    environment: Callable[[], Environment],
    nvml: Callable[[], Nvml],
    processes: Processes,
    variables: Mapping[str, str],
    catalog: Callable[[], Catalog],
    deep: bool = False,
) -> DoctorReport:
    """Join what the machine is and what the environment holds; both may still be being read when this begins.

    :param python: the interpreter of the environment to look at (:func:`ongpu.environment.choose_python`).
    :param machine: waits for :func:`ongpu.probe.probe` (without the Pythons and the digests of the driver's files).
    :param environment: waits for :func:`ongpu.environment.read_environment` of that interpreter.
    :param nvml: opens NVML for the checks of ``deep``, whose children run with ``variables``.
    :param deep: search all data of the packages' files; and where nothing that was read blocks, import torch and run
        the checks on the first visible GPU, in children.
    """
    facts = catalog()
    found = as_started(environment())
    code = read_code(found, deep=deep, library_path=variables.get("LD_LIBRARY_PATH", ""))
    known = machine()
    report = doctor(known, found, code, catalog=facts)
    if not deep or report.outcome is Outcome.REFUTED:
        return report
    return with_smoke(report, _smoke(python, known, nvml=nvml, processes=processes, variables=variables))


def _smoke(
    python: Path, machine: Machine, *, nvml: Callable[[], Nvml], processes: Processes, variables: Mapping[str, str]
) -> tuple[SmokeCheck, ...]:
    # Only `--deep` pays for the import of this room.
    from ongpu.smoke import run_smoke  # noqa: PLC0415 - half of doctor's start, for the slow option alone

    seen = visible_devices(machine)
    uuid = seen.devices[0].uuid if seen.devices and seen.certain else None
    try:
        door: Nvml | None = nvml()
    except DoorError:
        door = None
    try:
        return run_smoke(python=python, uuid=uuid, nvml=door, processes=processes, environment=variables).checks
    finally:
        if door is not None:
            door.close()
