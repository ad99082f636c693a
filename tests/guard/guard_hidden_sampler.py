"""The guard's sampler before a driver that keeps things to itself, as under WSL and WDDM: the real NVML, less that.

    python tests/guard/guard_hidden_sampler.py SECONDS processes [memory]

What is named is answered with ``NVML_ERROR_NOT_SUPPORTED``; everything else is the driver's own answer.
"""

from __future__ import annotations

import os
import sys

from ongpu.errors import DoorError
from ongpu.guard import sampler
from ongpu.machine.nvml import ProcessMemory, ProcessUtilization, RealNvml

HIDDEN = frozenset(sys.argv[2:])


def _refuse(what: str) -> None:
    if what in HIDDEN:
        raise DoorError(door="nvml", code="NVML_ERROR_NOT_SUPPORTED", reason="hidden by this test")


class HidingNvml(RealNvml):
    """NVML of a platform that hides what the command line names."""

    def processes(self, uuid: str) -> tuple[ProcessMemory, ...]:
        _refuse("processes")
        return super().processes(uuid)

    def process_utilization(self, uuid: str, *, since_us: int) -> tuple[ProcessUtilization, ...]:
        _refuse("processes")
        return super().process_utilization(uuid, since_us=since_us)

    def memory_used(self, uuid: str) -> int:
        _refuse("memory")
        return super().memory_used(uuid)


if __name__ == "__main__":
    vars(sampler)["RealNvml"] = HidingNvml  # the one door the sampler opens
    os._exit(sampler.main(stdin=sys.stdin.buffer, stdout=sys.stdout.buffer, baseline_s=float(sys.argv[1])))
