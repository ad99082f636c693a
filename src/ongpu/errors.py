"""The one tree of errors.

::

    OngpuError                    exit status 1
    ├── UsageError                2   an option, a configuration or an input is wrong; nothing was started
    ├── WorkError                 1   the work itself failed (a child, a disk, a network)
    ├── RefusedError              1   evidence was refused, or a claim was refuted
    ├── BlockedError              3   this machine or environment cannot do it: carries the named cause
    │   └── UnknownError          3   it could not be found out whether it can
    └── InterruptedRunError       130 the user interrupted; what was begun has been closed

A message is one sentence that names the bad value; ``next_step`` is the sentence that says what to type or
change. ``cli`` prints ``message`` and ``next_step`` and exits with ``exit_status``; nothing else does.

``DoorError`` stands apart: a door (NVML, libcuda, processes, an index) raises it for a foreign failure, and
the room that asked turns it into a recorded ``Unavailable`` or into one of the errors above.
"""

from __future__ import annotations


class OngpuError(Exception):
    """Base of every error that a user sees.

    :param message: one sentence, naming the bad value.
    :param next_step: what to do now, one sentence, in the imperative.
    """

    exit_status = 1

    def __init__(self, message: str, *, next_step: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}"


class UsageError(OngpuError):
    """An option, a configuration or an input is wrong; nothing was started."""

    exit_status = 2


class WorkError(OngpuError):
    """The work failed for a reason of its own: a child, a disk, a network."""


class RefusedError(OngpuError):
    """Evidence was refused, or a claim was refuted."""


class BlockedError(OngpuError):
    """It cannot be done here, and the cause has a name.

    :param cause: a value of ``ongpu.domain.verdict.Cause`` (text here, since this floor is below it).
    :param lines: the output lines the cause rests on.
    """

    exit_status = 3

    def __init__(self, message: str, *, next_step: str, cause: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message, next_step=next_step)
        self.cause = cause
        self.lines = lines


class UnknownError(BlockedError):
    """It could not be found out; the reason is in the message."""


class InterruptedRunError(OngpuError):
    """The user interrupted; what was begun has been closed or removed."""

    exit_status = 130


class DoorError(Exception):
    """A foreign failure at a door to the outside, translated once.

    :param door: ``nvml``, ``libcuda``, ``process``, ``index``, ``file``.
    :param code: the foreign code or name, for example ``NVML_ERROR_NOT_SUPPORTED`` or ``timeout``.
    :param reason: the foreign text, one line.
    """

    def __init__(self, *, door: str, code: str, reason: str) -> None:
        super().__init__(f"{door}: {code}: {reason}")
        self.door = door
        self.code = code
        self.reason = reason
