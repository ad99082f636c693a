"""The real doors, opened for a command. The only place that reads the process' environment and folder."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from ongpu.cli.rows import known_catalog
from ongpu.machine.clock import RealClock
from ongpu.machine.host import RealHost
from ongpu.machine.nvml import open_nvml
from ongpu.machine.process import RealProcesses
from ongpu.proof.doors import Doors
from ongpu.report.pages import BundlePages


def doors() -> Doors:
    """This machine."""
    processes = RealProcesses()
    environment = dict(os.environ)
    nvml = functools.partial(open_nvml, processes, python=Path(sys.executable), environment=environment)
    return Doors(
        nvml=nvml,
        processes=processes,
        host=RealHost(environment),
        clock=RealClock(),
        cwd=Path.cwd(),
        pages=BundlePages(),
        catalog=known_catalog,
    )
