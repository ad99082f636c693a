"""Reading the device code of an environment for `doctor`: headers only, torch never imported."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from ongpu.catalog import Catalog
from ongpu.doctor.join import doctor
from ongpu.doctor.report import DoctorReport, InstalledCode
from ongpu.domain.environment import Environment
from ongpu.environment import read_environment
from ongpu.machine.host import Host
from ongpu.machine.nvml import Nvml
from ongpu.machine.process import Processes
from ongpu.probe import probe
from ongpu.scan import scan_paths, scan_torch

# NVIDIA's libraries are pinned by torch and made for every GPU that torch is made for; `scan` reads them.
_WITH_TORCH: Final = ("nvidia-", "cuda-", "triton")


def read_code(environment: Environment, *, deep: bool = False) -> InstalledCode:
    """Read what the environment's packages carry.

    :param deep: also search the data outside the fat-binary sections, which takes a second or two more.
    """
    folders = [Path(one) for one in environment.site_packages if Path(one).is_dir()]
    torch_folders = [folder / "torch" for folder in folders if (folder / "torch" / "version.py").is_file()]
    torch = scan_torch(Path(environment.torch.path)) if environment.torch is not None else ()
    others = frozenset(
        one.name for one in environment.packages if one.name != "torch" and not one.name.startswith(_WITH_TORCH)
    )
    packages = scan_paths(folders, deep=deep, names=others) if folders and others else None
    return InstalledCode(torch=torch, packages=packages, torch_folders=tuple(str(one) for one in torch_folders))


def examine(
    python: Path,
    *,
    nvml: Callable[[], Nvml],
    processes: Processes,
    host: Host,
    catalog: Callable[[], Catalog],
    deep: bool = False,
) -> DoctorReport:
    """Probe the machine and read the environment side by side, then join them.

    :param python: the interpreter of the environment to look at (:func:`ongpu.environment.choose_python`).
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(probe, nvml=nvml, processes=processes, host=host, list_pythons=False)
        environment = read_environment(python, processes=processes)
        code = read_code(environment, deep=deep)
        facts = catalog()
        machine = asked.result()
    return doctor(machine, environment, code, catalog=facts)
