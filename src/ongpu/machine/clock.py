"""The door to time."""

from __future__ import annotations

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
        """Linux's random id of the boot; elsewhere the second the machine was booted in."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            return f"booted-{int(psutil.boot_time())}"
