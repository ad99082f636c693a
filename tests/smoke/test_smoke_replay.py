"""Probe and smoke over every recording of a real machine: what was seen there is what is said here."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from ongpu.domain.blocked import diagnose_blocked
from ongpu.domain.verdict import Cause, Outcome
from ongpu.errors import DoorError
from ongpu.machine.nvml import Nvml
from ongpu.machine.replay import Replay
from ongpu.probe import probe
from ongpu.smoke import SmokeReport, run_smoke

RECORDINGS = sorted((Path(__file__).parents[1] / "recordings").glob("*.json"))


def smoke(replay: Replay, python: str, uuid: str | None) -> SmokeReport:
    nvml: Nvml | None = None
    with contextlib.suppress(DoorError):
        nvml = replay.open_nvml()
    return run_smoke(python=Path(python), uuid=uuid, nvml=nvml, processes=replay.processes, environment={})


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_a_recorded_machine(recording: Path) -> None:
    replay = Replay(recording.read_text("utf-8"))
    python = replay.answer("note", "python", [], str)
    machine = probe(
        nvml=replay.open_nvml,
        processes=replay.processes,
        host=replay,
        python=Path(python),
        name_libraries=False,  # the recordings were made before that was asked
    )
    device = machine.devices[0] if machine.devices else None
    report = smoke(replay, python, device.uuid if device else None)
    if device is None:
        blocked = diagnose_blocked(machine)
        assert blocked is not None
        assert blocked.cause is Cause.NO_GPU_VISIBLE
        assert report.outcome is Outcome.REFUTED
        assert report.cause is not None
        return
    assert diagnose_blocked(machine) is None
    assert machine.driver.kernel_mode is not None
    assert [(one.name, one.outcome) for one in report.checks] == [
        ("torch_cuda_check", Outcome.PROVEN),
        ("matmul-float32", Outcome.PROVEN),
        ("matmul-bfloat16", Outcome.PROVEN),
        ("process-memory", Outcome.PROVEN),
    ]
    memory = report.checks[3].figures
    assert isinstance(memory["used_bytes"], int)
    assert isinstance(memory["reserved_bytes"], int)
    assert memory["used_bytes"] >= memory["reserved_bytes"] > 3 * 4096 * 4096 * 4


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_a_recording_names_no_machine_and_no_user(recording: Path) -> None:
    text = recording.read_text("utf-8")
    for word in ("/root/", "/work/", "/opt/", "/mnt/", "TOKEN", "SECRET", "PASSWORD"):
        assert word not in text
