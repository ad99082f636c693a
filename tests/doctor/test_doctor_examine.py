"""The real doors: this machine and this environment, whatever they are, end as one answer."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

from ongpu.catalog import load
from ongpu.doctor import examine, read_code
from ongpu.domain.verdict import Cause, Outcome
from ongpu.environment import read_environment, read_files
from ongpu.machine.host import RealHost
from ongpu.machine.nvml import ask_nvml, open_nvml
from ongpu.machine.process import RealProcesses
from ongpu.probe import probe


@pytest.mark.process
def test_doctor_examines_this_machine() -> None:
    processes = RealProcesses()
    python = Path(sys.executable)
    variables = {"PATH": "/usr/bin:/bin"}
    nvml = functools.partial(open_nvml, processes, python=python, environment=variables)
    asked = functools.partial(ask_nvml, processes, python=python, environment=variables)
    report = examine(
        python,
        machine=functools.partial(probe, nvml=asked, processes=processes, host=RealHost(variables)),
        environment=functools.partial(read_environment, python, processes=processes),
        nvml=nvml,
        processes=processes,
        variables=variables,
        catalog=load,
    )
    assert report.python == sys.executable
    assert report.next_step
    assert (report.outcome is Outcome.PROVEN) == (report.cause is Cause.HEALTHY)
    if report.outcome is not Outcome.PROVEN:
        assert report.findings


def test_doctor_reads_a_torch_from_its_files(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.12" / "site-packages"
    (site / "torch" / "lib").mkdir(parents=True)
    (site / "torch" / "version.py").write_text("__version__ = '2.99.0+cu130'\ncuda: Optional[str] = '13.0'\n")
    data = Path(__file__).parents[1] / "scan" / "data" / "library.so"
    (site / "torch" / "lib" / "libtorch_cuda.so").write_bytes(data.read_bytes())
    found = read_files(tmp_path / "bin" / "python", reason="it is not there")
    code = read_code(found)
    assert [Path(one.path).name for one in code.torch] == ["libtorch_cuda.so"]
    assert code.torch_folders == (str((site / "torch").resolve()),)
