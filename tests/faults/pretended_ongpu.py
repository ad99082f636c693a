"""``ongpu`` itself on a machine that has a driver and a GPU as far as files and NVML can tell: nothing else is faked.

Run by path, as a process of its own, with the stand-in ``libnvidia-ml.so.1`` first on ``LD_LIBRARY_PATH``. Without this
door no run here could be proven (a driver whose kernel module is not loaded cannot have answered), and then a fault
that spoils a proof could not be told from one that does nothing.

``PRETENDED_JUMP_S`` sets the wall clock by that much at every tenth reading of it.
"""

from __future__ import annotations

import itertools
import os

from ongpu.cli import main, outside
from ongpu.machine import clock
from ongpu.machine.host import RealHost

VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n"


class PretendedHost(RealHost):
    """This host, with what a loaded driver leaves in its files."""

    def read_text(self, path: str) -> str:
        """The kernel module's own words; all else is real."""
        return VERSION if path == "/proc/driver/nvidia/version" else super().read_text(path)

    def exists(self, path: str) -> bool:
        """The device file of the driver; all else is real."""
        return path == "/dev/nvidiactl" or super().exists(path)


class JumpingClock(clock.RealClock):
    """A wall clock that somebody keeps setting, forwards and backwards."""

    _readings = itertools.count()

    def wall_s(self) -> float:
        """Seconds since the epoch, after the last jump."""
        turn = next(self._readings) // 10
        return super().wall_s() + (turn % 2) * float(os.environ["PRETENDED_JUMP_S"])


if __name__ == "__main__":
    outside.__dict__["RealHost"] = PretendedHost  # the door, and nothing behind it
    if os.environ.get("PRETENDED_JUMP_S"):
        clock.__dict__["RealClock"] = JumpingClock
    main()
