"""``nvidia_smi.txt``: what the driver said while the training ran, never of an idle card."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from ongpu.errors import DoorError, OngpuError
from ongpu.guard.session import GuardEvent
from ongpu.machine.smi import nvidia_smi_text, read_nvml, render
from ongpu.proof.doors import Doors

SMI_FILE = "nvidia_smi.txt"


class Snapshot:
    """``nvidia-smi`` and NVML while the training runs, taken beside the session so that no reading waits for it."""

    def __init__(
        self, *, doors: Doors, text: Callable[[str, str], None], record: Callable[[str, Mapping[str, object]], int]
    ) -> None:
        self._text = text
        self._record = record
        self._doors = doors
        self._thread: threading.Thread | None = None
        self._failure: OngpuError | None = None

    def on_event(self, event: GuardEvent) -> None:
        """Start taking it at the first step on CUDA."""
        if event.kind == "first-step-on-cuda" and self._thread is None:
            self._thread = threading.Thread(target=self._take, args=(event,), name="nvidia-smi")
            self._thread.start()

    def join(self) -> None:
        """Wait until it is written."""
        if self._thread is not None:
            self._thread.join()

    def raise_failure(self) -> None:
        """Raise what kept it from being written, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _take(self, event: GuardEvent) -> None:
        try:
            self._write(event)
        except OngpuError as error:
            self._failure = error

    def _write(self, event: GuardEvent) -> None:
        clock = self._doors.clock
        began_s = clock.mono_s()
        parts = []
        try:
            nvml = self._doors.nvml()
            try:
                parts.append(render(read_nvml(nvml), taken=f"while process {event.pid} was training"))
            finally:
                nvml.close()
        except DoorError as error:
            parts.append(f"# NVML could not be read: {error}\n")
        listed_s = clock.mono_s()
        try:
            text = nvidia_smi_text(self._doors.processes, environment=self._doors.host.environment())
            parts.append("# nvidia-smi, as it printed\n" + text)
        except DoorError as error:
            parts.append(f"# nvidia-smi could not be run: {error}\n")
        head = (
            f"# Taken while process {event.pid} was training, after its first optimizer step on CUDA "
            f"(journal record {event.seq}).\n# Monotonic clock: begun {began_s:.3f} s, NVML read {listed_s:.3f} s, "
            f"nvidia-smi read {clock.mono_s():.3f} s.\n\n"
        )
        self._text(SMI_FILE, head + "\n".join(parts))
        self._record(
            "text",
            {"name": SMI_FILE, "while": event.seq, "pid": event.pid, "began_s": began_s, "ended_s": clock.mono_s()},
        )
