"""The door to time."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Protocol

import psutil


class Clock(Protocol):
    """What the rooms ask of time."""

    def wall_s(self) -> float:
        """Seconds since the epoch. May jump: never subtract two of them."""
        ...

    def mono_s(self) -> float:
        """Seconds of a clock that never goes back; on Linux the same for all processes of a boot."""
        ...

    def boot_id(self) -> str:
        """What names this boot of this machine: two monotonic times compare only where it is the same."""
        ...


class RealClock:
    """The clocks of this machine."""

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def mono_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def boot_id(self) -> str:
        """Linux's random id of the boot; elsewhere the second the machine was booted in; empty where nothing tells."""
        with contextlib.suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        with contextlib.suppress(OSError, RuntimeError, psutil.Error):
            return f"booted-{int(psutil.boot_time())}"
        return ""
