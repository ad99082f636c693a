"""Recording and replay give the same answers and the same errors; NVML within a limit; nvidia-smi as text."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ongpu.domain.arch import ComputeCapability
from ongpu.errors import DoorError
from ongpu.machine.host import RealHost
from ongpu.machine.nvml import BoundedNvml, Nvml, NvmlDevice, ProcessMemory, code_name
from ongpu.machine.process import Completed, RealProcesses
from ongpu.machine.recording import Book, RecordingHost, RecordingProcesses, recorded_opening
from ongpu.machine.replay import Replay
from ongpu.machine.smi import TEXT_LIMIT_BYTES, nvidia_smi_text, read_nvml, render

DEVICE = NvmlDevice(
    index=0,
    uuid="GPU-1",
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=80 << 30,
    compute_capability=ComputeCapability(9, 0),
    pci_bus_id=None,
    mig=False,
)


class OneGpu:
    """One GPU whose readings change, and which refuses its power draw."""

    def __init__(self) -> None:
        self.used = 0
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()

    def kernel_mode_version(self) -> str:
        return "580.159.04"

    def devices(self) -> tuple[NvmlDevice, ...]:
        return (DEVICE,)

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        self.gate.wait(20)
        return (ProcessMemory(pid=1, used_bytes=None), ProcessMemory(pid=2, used_bytes=5 << 20))

    def memory_used(self, uuid: str) -> int:
        self.used += 1 << 20
        return self.used

    def utilization(self, uuid: str) -> int:
        return 99

    def power_mw(self, uuid: str) -> int:
        raise DoorError(door="nvml", code="NVML_ERROR_NOT_SUPPORTED", reason="Not Supported")

    def energy_mj(self, uuid: str) -> int:
        return 7

    def close(self) -> None:
        self.closed += 1


def test_nvml_is_replayed_in_order_with_its_errors() -> None:
    book = Book()
    nvml = recorded_opening(OneGpu, book)()
    assert nvml.devices() == (DEVICE,)
    assert [nvml.memory_used("GPU-1"), nvml.memory_used("GPU-1")] == [1 << 20, 2 << 20]
    nvml.processes("GPU-1")
    with pytest.raises(DoorError):
        nvml.power_mw("GPU-1")
    nvml.close()
    again = Replay(book.text(title="one GPU")).open_nvml()
    assert again.devices() == (DEVICE,)
    assert [again.memory_used("GPU-1") for _ in range(3)] == [1 << 20, 2 << 20, 2 << 20]
    assert again.processes("GPU-1")[0].used_bytes is None
    with pytest.raises(DoorError) as caught:
        again.power_mw("GPU-1")
    assert caught.value.code == "NVML_ERROR_NOT_SUPPORTED"
    again.close()
    with pytest.raises(LookupError):
        again.energy_mj("GPU-1")
    with pytest.raises(LookupError):
        again.memory_used("GPU-2")


def test_an_opening_that_fails_is_replayed_as_that_failure() -> None:
    def refuse() -> Nvml:
        raise DoorError(door="nvml", code="NVML_ERROR_DRIVER_NOT_LOADED", reason="Driver Not Loaded")

    book = Book()
    with pytest.raises(DoorError):
        recorded_opening(refuse, book)()
    with pytest.raises(DoorError) as caught:
        Replay(book.text(title="none")).open_nvml()
    assert (caught.value.door, caught.value.code) == ("nvml", "NVML_ERROR_DRIVER_NOT_LOADED")


def test_a_recording_keeps_only_the_variables_named() -> None:
    book = Book()
    host = RecordingHost(RealHost({"A": "1", "TOKEN": "secret"}), book, variables=frozenset({"A"}))
    assert host.environment() == {"A": "1"}
    host.environment()
    assert "secret" not in book.text(title="x")
    assert len(book.calls) == 1, "what stands still is written down once"
    assert Replay(book.text(title="x")).environment() == {"A": "1"}


@pytest.mark.process
def test_processes_are_replayed_byte_for_byte_with_their_callbacks(tmp_path: Path) -> None:
    book = Book()
    recorder = RecordingProcesses(RealProcesses(), book, rest=dict(os.environ))
    code = "import sys; sys.stdout.buffer.write(b'\\xff\\x00 raw'); sys.stderr.write('e'); sys.exit(3)"
    first = recorder.run((sys.executable, "-I", "-c", code), timeout_s=30)
    with pytest.raises(DoorError):
        recorder.run((str(tmp_path / "missing"),), timeout_s=30)
    replay = Replay(book.text(title="children")).processes
    pids: list[int] = []
    chunks: list[bytes] = []
    again = replay.run((sys.executable, "-I", "-c", code), timeout_s=1, on_start=pids.append, on_output=chunks.append)
    assert (again.stdout, again.stderr, again.status) == (first.stdout, first.stderr, 3)
    assert chunks == [b"\xff\x00 raw", b"e"]
    assert pids[0] > 0
    with pytest.raises(DoorError) as caught:
        replay.run((str(tmp_path / "missing"),), timeout_s=1)
    assert caught.value.code == "not-found"


def test_what_is_no_recording_is_refused() -> None:
    for text in ("{}", "[]", json.dumps({"schema": "ongpu/recording/9"})):
        with pytest.raises(ValueError, match="not a recording"):
            Replay(text)


def test_nvml_within_a_limit() -> None:
    inner = OneGpu()
    nvml = BoundedNvml(lambda: inner, timeout_s=0.3)
    assert nvml.devices() == (DEVICE,)
    assert nvml.kernel_mode_version() == "580.159.04"
    assert nvml.energy_mj("GPU-1") == 7
    with pytest.raises(DoorError) as caught:
        nvml.power_mw("GPU-1")
    assert caught.value.code == "NVML_ERROR_NOT_SUPPORTED"
    inner.gate.clear()
    with pytest.raises(DoorError) as caught:
        nvml.processes("GPU-1")
    assert (caught.value.code, "nvmlDeviceGetComputeRunningProcesses" in caught.value.reason) == ("timeout", True)
    with pytest.raises(DoorError, match="has not come back"):
        nvml.utilization("GPU-1")
    nvml.close()
    nvml.close()
    inner.gate.set()


def test_an_opening_that_fails_or_hangs_is_an_error() -> None:
    def refuse() -> Nvml:
        raise DoorError(door="nvml", code="NVML_ERROR_UNKNOWN", reason="Unknown Error")

    with pytest.raises(DoorError, match="Unknown Error"):
        BoundedNvml(refuse, timeout_s=5)
    gate = threading.Event()

    def hang() -> Nvml:
        gate.wait(20)
        return OneGpu()

    with pytest.raises(DoorError) as caught:
        BoundedNvml(hang, timeout_s=0.2)
    assert caught.value.code == "timeout"
    gate.set()


def test_closing_closes_once() -> None:
    inner = OneGpu()
    nvml = BoundedNvml(lambda: inner, timeout_s=5)
    nvml.close()
    nvml.close()
    assert inner.closed == 1
    with pytest.raises(DoorError) as caught:
        nvml.devices()
    assert caught.value.code == "NVML_ERROR_UNINITIALIZED"


def test_the_names_of_nvmls_codes_are_those_of_its_binding() -> None:
    pynvml = pytest.importorskip("pynvml")
    named = {
        name: value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_") and type(value) is int
    }
    assert len(named) > 20
    assert {code_name(value) for value in named.values()} == set(named)
    assert code_name(4711) == "NVML_ERROR_4711"


def test_a_reading_as_text_says_what_was_refused() -> None:
    text = render(read_nvml(OneGpu()), taken="while the training ran")
    assert text.startswith("Read from NVML by ongpu (not the output of nvidia-smi), while the training ran\n")
    assert "GPU 0: NVIDIA H100 80GB HBM3 (GPU-1)" in text
    assert "power draw:          not readable (NVML_ERROR_NOT_SUPPORTED)" in text
    assert "pid 1: not readable" in text
    assert "pid 2: 5 MiB" in text


class Answers:
    """Processes that give one answer to each executable."""

    def __init__(self, **answers: Completed | DoorError) -> None:
        self.answers = answers

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
        answer = self.answers["wsl" if "wsl" in argv[0] else "path"]
        if isinstance(answer, DoorError):
            raise answer
        return answer


def said(stdout: bytes, *, status: int = 0, timed_out: bool = False) -> Completed:
    return Completed(argv=(), status=status, stdout=stdout, stderr=b"", seconds=1.0, timed_out=timed_out)


MISSING = DoorError(door="process", code="not-found", reason="nvidia-smi: No such file or directory")


def test_nvidia_smi_is_kept_as_it_is_under_a_cap() -> None:
    assert nvidia_smi_text(Answers(path=said("Mémoire\n".encode()))) == "Mémoire\n"
    assert nvidia_smi_text(Answers(path=MISSING, wsl=said(b"in WSL"))) == "in WSL"
    long = nvidia_smi_text(Answers(path=said(b"x" * (TEXT_LIMIT_BYTES + 5))))
    assert long.endswith("\n[5 more bytes were left out]\n")
    assert len(long) < TEXT_LIMIT_BYTES + 50


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        ({"path": MISSING, "wsl": MISSING}, "not-found", "No such file"),
        ({"path": said(b"", timed_out=True, status=-9)}, "timeout", "did not end"),
        ({"path": said(b"NVIDIA-SMI has failed because it couldn't ...\n", status=9)}, "failed", "has failed because"),
        ({"path": said(b"", status=1)}, "failed", "said nothing"),
    ],
)
def test_nvidia_smi_that_fails(answers: dict[str, Completed | DoorError], code: str, words: str) -> None:
    with pytest.raises(DoorError) as caught:
        nvidia_smi_text(Answers(**answers))
    assert caught.value.code == code
    assert words in caught.value.reason


@pytest.mark.process
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("printf 'Treiber\\374bersicht\\n'", "Treiber\ufffdbersicht\n"),
        ("head -c 50000000 /dev/zero | tr '\\0' x", "more bytes were left out]"),
        ("echo a warning >&2; echo table", "table\n"),
    ],
)
def test_a_real_command_called_nvidia_smi(tmp_path: Path, script: str, expected: str) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    text = nvidia_smi_text(RealProcesses(), environment=environment, timeout_s=100)
    assert expected in text
    assert len(text) < TEXT_LIMIT_BYTES + 50


@pytest.mark.process
def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nsleep 300\n")
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with pytest.raises(DoorError) as caught:
        nvidia_smi_text(RealProcesses(term_grace_s=0.5), environment=environment, timeout_s=0.5)
    assert caught.value.code == "timeout"
