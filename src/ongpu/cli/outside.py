"""The real doors, opened for a command. The only place that reads the process' environment and folder."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ongpu.cli.ahead import processes as door_to_processes
from ongpu.machine.host import RealHost
from ongpu.machine.nvml import Nvml, NvmlIdentity, ask_nvml, open_nvml
from ongpu.machine.process import RealProcesses

if TYPE_CHECKING:
    from ongpu.proof.doors import Doors


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What a command that only looks needs of this machine."""

    nvml: Callable[[], Nvml]
    identity: Callable[[], NvmlIdentity]
    """NVML for who asks only which driver and which GPUs."""
    processes: RealProcesses
    host: RealHost
    cwd: Path


def here() -> Here:
    """This machine, to look at."""
    processes = door_to_processes()
    environment = dict(os.environ)
    nvml = functools.partial(open_nvml, processes, python=Path(sys.executable), environment=environment)
    identity = functools.partial(ask_nvml, processes, python=Path(sys.executable), environment=environment)
    return Here(nvml=nvml, identity=identity, processes=processes, host=RealHost(environment), cwd=Path.cwd())


def doors() -> Doors:
    """This machine, with what writes a bundle: a tenth of a second of imports that looking does without."""
    from ongpu.cli.rows import known_catalog
    from ongpu.machine.clock import RealClock
    from ongpu.proof.doors import Doors
    from ongpu.report.pages import BundlePages

    seen = here()
    return Doors(
        nvml=seen.nvml,
        processes=seen.processes,
        host=seen.host,
        clock=RealClock(),
        cwd=seen.cwd,
        pages=BundlePages(),
        catalog=known_catalog,
    )
