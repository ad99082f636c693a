"""Stand-in drivers, built with the C compiler of the machine, and a child that probes with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STANDINS = Path(__file__).parents[1] / "standins"


PROBE = """
import json, os, sys
from pathlib import Path
import msgspec
from ongpu.domain.blocked import diagnose_blocked
from ongpu.machine.host import RealHost
from ongpu.machine.nvml import ask_nvml
from ongpu.machine.process import RealProcesses
from ongpu.probe import probe
processes = RealProcesses(term_grace_s=0.5)
python = Path(sys.executable)
machine = probe(
    nvml=lambda: ask_nvml(processes, python=python, environment=os.environ, timeout_s=2.0),
    processes=processes, host=RealHost(os.environ), list_pythons=False, driver_timeout_s=2.0,
)
blocked = diagnose_blocked(machine)
print(json.dumps(msgspec.to_builtins({"machine": machine, "blocked": blocked}, enc_hook=str)))
"""


@pytest.fixture
def program() -> str:
    """The program of a child that probes with whatever drivers its environment gives it."""
    return PROBE


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two stand-ins, and one with an NVML that lacks the newest function below ``old``."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in drivers with")
    folder = tmp_path_factory.mktemp("drivers")
    (folder / "old").mkdir()
    for source, target, flags in (
        ("nvml.c", "libnvidia-ml.so.1", ()),
        ("nvml.c", "old/libnvidia-ml.so.1", ("-DOLD",)),
        ("cuda.c", "libcuda.so.1", ()),
    ):
        argv = [compiler, "-shared", "-fPIC", "-O1", *flags, "-o", str(folder / target), str(STANDINS / source)]
        subprocess.run(argv, check=True)
    return folder


@pytest.fixture
def probed(drivers: Path) -> Callable[..., dict[str, Any]]:
    """Probe this machine in a child with stand-in drivers in their modes."""

    def run(**variables: str) -> dict[str, Any]:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(drivers), **variables}
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run
