"""The road of ``enable``: where it stops, what it leaves, and what an interrupt does to it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ongpu import catalog
from ongpu.domain.verdict import Cause, Outcome
from ongpu.domain.witness import Observation
from ongpu.enable import EnableReport, EnableRequest, Phase, PhaseOutcome, enable
from ongpu.errors import DoorError, InterruptedRunError, UsageError
from ongpu.evidence.check import check
from ongpu.evidence.journal import read_journal
from ongpu.machine.clock import RealClock
from ongpu.machine.host import RealHost
from ongpu.machine.process import Completed, RealProcesses
from ongpu.machine.replay import Replay
from ongpu.proof.doors import Doors
from ongpu.report.pages import BundlePages

RECORDINGS = Path(__file__).parents[1] / "recordings"
REHEARSED_ON = "rtx5090-linux"


class Seen:
    """A watch that keeps what it is told, and may act when a phase begins."""

    def __init__(self, on_phase: Callable[[str], None] | None = None) -> None:
        self.ended: list[Phase] = []
        self.said = bytearray()
        self._on_phase = on_phase

    def phase_began(self, name: str) -> None:
        if self._on_phase is not None:
            self._on_phase(name)

    def note(self, text: str) -> None:
        self.said += text.encode()

    def output(self, data: bytes) -> None:
        self.said += data

    def phase_ended(self, phase: Phase) -> None:
        self.ended.append(phase)


class RealPython:
    """The processes of a recording, but for this Python, which is asked for real."""

    def __init__(self, recorded: Replay) -> None:
        self._recorded = recorded.processes
        self._real = RealProcesses()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_output: Callable[[bytes], None] | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> Completed:
        chosen = self._real if argv[0] == sys.executable else self._recorded
        return chosen.run(argv, timeout_s=timeout_s, env=env, cwd=cwd, on_output=on_output, on_start=on_start)


class Recorded(Replay):
    """A recording made before the driver's own files were asked for: what was not read then cannot be read now."""

    def mapped_file(self, name: str) -> str | None:
        return None

    def sha256(self, path: str) -> str:
        raise DoorError(door="file", code="missing", reason=f"{path}: not recorded")


def recorded(name: str, cwd: Path) -> Doors:
    replay = Recorded((RECORDINGS / name).read_text("utf-8"))
    return Doors(
        nvml=replay.open_nvml,
        processes=RealPython(replay),
        host=replay,
        clock=RealClock(),
        cwd=cwd,
        pages=BundlePages(),
    )


def here(cwd: Path) -> Doors:
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return replace(recorded("no_gpu.json", cwd), processes=RealProcesses(), host=RealHost(variables))


def journal(folder: Path) -> tuple[Observation, ...]:
    return read_journal((folder / "journal.jsonl").read_bytes())


def walked(request: EnableRequest, doors: Doors, *, watch: Seen | None = None) -> EnableReport:
    machine = catalog.described_machine(request.rehearse) if request.rehearse else None
    return enable(request, doors=doors, watch=watch or Seen(), described=machine, argv=("ongpu", "enable"))


def test_without_a_gpu_it_is_blocked_and_nothing_trains(tmp_path: Path) -> None:
    watch = Seen()
    report = walked(EnableRequest(), recorded("no_gpu.json", tmp_path), watch=watch)
    assert (report.exit_status, report.blocked_in, report.cause) == (3, "probe", Cause.NO_GPU_VISIBLE)
    assert report.outcome is Outcome.UNKNOWN
    assert [phase.name for phase in watch.ended] == ["probe", "evidence"]
    folder = Path(report.bundle)
    assert folder == tmp_path / "ongpu_runs" / "enable"
    kinds = [one.kind for one in journal(folder)]
    assert "child.start" not in kinds and "staged" not in kinds
    assert kinds[-1] == "run.end"
    text = (folder / "blocked.txt").read_text("utf-8")
    assert "Cause: no-gpu-visible" in text and report.next_step in text
    readme = (folder / "README.md").read_text("utf-8")
    assert "**Blocked** in phase `probe`" in readme and "the training ran on the GPU is **not** proven" in readme
    checked = check(folder)
    assert checked.exit_status == 0 and not checked.problems, checked


def test_an_h100_and_a_torch_that_no_build_serves_there(tmp_path: Path) -> None:
    report = walked(EnableRequest(torch_spec="torch==2.0.1"), recorded("h100.json", tmp_path))
    assert (report.exit_status, report.blocked_in) == (3, "plan")
    assert [phase.outcome for phase in report.phases][:2] == [PhaseOutcome.DONE, PhaseOutcome.BLOCKED]
    assert "H100" in report.phases[0].summary and "compute capability 9.0" in report.phases[0].summary
    assert report.next_step and report.cause is Cause.PYTHON_ENV  # no build of it for Python 3.12
    assert check(Path(report.bundle)).exit_status == 0


@pytest.mark.process
def test_an_h100_and_an_adopted_cpu_only_torch(tmp_path: Path) -> None:
    report = walked(EnableRequest(python=sys.executable), recorded("h100.json", tmp_path))
    assert (report.exit_status, report.blocked_in, report.cause) == (3, "install", Cause.CPU_ONLY_TORCH)
    assert "ongpu enable" in report.next_step
    assert [phase.name for phase in report.phases] == ["probe", "plan", "install", "evidence"]


def test_evidence_is_never_written_over(tmp_path: Path) -> None:
    first = walked(EnableRequest(), recorded("no_gpu.json", tmp_path))
    before = {path: path.read_bytes() for path in Path(first.bundle).rglob("*") if path.is_file()}
    second = walked(EnableRequest(), recorded("no_gpu.json", tmp_path))
    assert Path(second.bundle).name == "enable-2"
    with pytest.raises(UsageError, match="never written over"):
        walked(EnableRequest(evidence=Path("ongpu_runs/enable")), recorded("no_gpu.json", tmp_path))
    assert {path: path.read_bytes() for path in Path(first.bundle).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (EnableRequest(torch_spec="???"), "no torch requirement"),
        (EnableRequest(channel="beta"), "no channel"),
        (EnableRequest(expect_gpu=" "), "--expect-gpu is empty"),
        (EnableRequest(project=Path("nowhere")), "does not exist"),
        (EnableRequest(python="/nowhere/python"), "There is no Python"),
        (EnableRequest(command=("./nowhere",)), "no command that can be started"),
        (EnableRequest(command=("",)), "no command to run"),
        (EnableRequest(python=sys.executable, command=("no-such-program",)), "no command that can be started"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_meant_leaves_nothing(request_: EnableRequest, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        walked(request_, recorded("h100.json", tmp_path))
    assert caught.value.next_step.endswith((".", "py", "'"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
@pytest.mark.parametrize("phase", ["probe", "plan", "install", "scan", "smoke", "evidence"])
def test_an_interrupt_in_a_phase_seals_what_was_observed(phase: str, number: signal.Signals, tmp_path: Path) -> None:
    def interrupt(name: str) -> None:
        if name == phase:
            os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    # A rehearsal stops in phase install where its Python has no torch: so "evidence" is reached at once.
    python = "/bin/false" if phase == "evidence" else sys.executable
    request = EnableRequest(rehearse=REHEARSED_ON, python=python, evidence=Path("ev"))
    watch = Seen(interrupt)
    with pytest.raises(InterruptedRunError, match=f"Interrupted in phase {phase}") as caught:
        walked(request, here(tmp_path), watch=watch)
    assert caught.value.exit_status == 130
    assert str(tmp_path / "ev") in caught.value.next_step
    assert signal.getsignal(signal.SIGTERM) is before
    ends = [one.data["end"] for one in journal(tmp_path / "ev") if one.kind == "run.end"]
    assert ends == ["blocked" if phase == "evidence" else "interrupted"]
    checked = check(tmp_path / "ev")
    assert checked.exit_status == 3 and not checked.problems, checked  # 3: simulated
    assert watch.ended[-1].name == "evidence"


class InterruptedInUv(RealPython):
    """Ctrl-C while uv works."""

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        if any(Path(word).name.startswith("uv") for word in argv[:1]):
            raise KeyboardInterrupt
        return super().run(argv, **options)


@pytest.mark.process
def test_an_interrupt_while_packages_are_installed_leaves_no_environment(tmp_path: Path) -> None:
    doors = recorded("h100.json", tmp_path)
    replay = Recorded((RECORDINGS / "h100.json").read_text("utf-8"))
    with pytest.raises(InterruptedRunError, match="Interrupted in phase install"):
        walked(EnableRequest(evidence=Path("ev")), replace(doors, processes=InterruptedInUv(replay)))
    assert [path.name for path in tmp_path.iterdir()] == ["ev"]
    assert check(tmp_path / "ev").exit_status == 0


@pytest.mark.process
def test_a_rehearsal_needs_a_torch(tmp_path: Path) -> None:
    report = walked(EnableRequest(rehearse=REHEARSED_ON, python="/bin/false"), here(tmp_path))
    assert (report.exit_status, report.blocked_in, report.cause) == (3, "install", Cause.PYTHON_ENV)
    assert "/bin/false" in report.reason and report.lines, report
    assert "--python" in report.next_step
