"""What is sure to be asked is asked before the command line is read.

A driver takes a quarter of a second to answer (``cuInit`` alone 0.18 s on an H100), and the parser of the command
line is half as long in coming. The children wait with their answers until they are led.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # 10 ms, and most commands start no process
    from ongpu.machine.process import RealProcesses

_ASKING: Final = frozenset({"doctor", "probe"})
_HELP: Final = frozenset({"-h", "--help"})

_begun: list[RealProcesses] = []


@contextlib.contextmanager
def asked_ahead(words: Sequence[str]) -> Iterator[None]:
    """While entered, the driver is being asked, where the command of ``words`` will; whatever is not led is ended."""
    if not words or words[0] not in _ASKING or _HELP.intersection(words):
        yield
        return
    from ongpu.machine.driver_check import LIBCUDA, NVML_DEVICES, check_command
    from ongpu.machine.process import RealProcesses

    processes = RealProcesses()
    try:
        for check in (LIBCUDA, NVML_DEVICES):
            processes.start_ahead(check_command(check, python=Path(sys.executable)), env=dict(os.environ))
        _begun.append(processes)
        yield
    finally:
        _begun.clear()
        processes.end_ahead()


def processes() -> RealProcesses:
    """The door to processes, with what was asked ahead behind it."""
    from ongpu.machine.process import RealProcesses

    return _begun[-1] if _begun else RealProcesses()
