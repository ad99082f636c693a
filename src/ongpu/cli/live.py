"""How a long command is watched: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ongpu.cli.streams import Patient
from ongpu.enable import Phase, PhaseOutcome

# Control sequences and control characters have no place in a one-line view of a child's output.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_MARK = {
    PhaseOutcome.DONE: ("done", "green"),
    PhaseOutcome.NOTED: ("noted", "yellow"),
    PhaseOutcome.REHEARSED: ("rehearsed", "yellow"),
    PhaseOutcome.REFUTED: ("refuted", "red"),
    PhaseOutcome.UNKNOWN: ("unknown", "yellow"),
    PhaseOutcome.BLOCKED: ("blocked", "red"),
    PhaseOutcome.FAILED: ("failed", "red"),
    PhaseOutcome.INTERRUPTED: ("interrupted", "red"),
    PhaseOutcome.SKIPPED: ("skipped", "dim"),
}


class PatientConsole(Console):
    """A console whose reader may leave, or whose disk may be full: that ends what is shown, not the training."""

    def __init__(self, *, stderr: bool) -> None:
        super().__init__(file=Patient(sys.stderr if stderr else sys.stdout).as_file())


class View(Protocol):
    """What the command shows while it works."""

    def __enter__(self) -> Self:
        """Begin showing."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        ...

    def phase_began(self, name: str) -> None:
        """A phase begins."""
        ...

    def note(self, text: str) -> None:
        """One line about the phase under way."""
        ...

    def output(self, data: bytes) -> None:
        """Bytes a child printed."""
        ...

    def phase_ended(self, phase: Phase) -> None:
        """A phase has ended."""
        ...


def last_line(data: bytes) -> str:
    """The last line with something on it, without control characters, cut to 100 characters."""
    lines = [_CONTROL.sub("", line).strip() for line in re.split(r"[\r\n]", data.decode("utf-8", "replace"))]
    return next((line for line in reversed(lines) if line), "")[:100]


class PlainView:
    """One line for each thing that happened, for logs, pipes and CI."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        """Begin showing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def phase_began(self, name: str) -> None:
        """A phase begins."""
        self._line(f"[{name}]")

    def note(self, text: str) -> None:
        """One line about the phase under way."""
        self._line(f"  {text}")

    def output(self, data: bytes) -> None:
        """Children's output is kept in the bundle's logs; a plain view does not repeat it."""

    def phase_ended(self, phase: Phase) -> None:
        """A phase has ended."""
        self._line(f"  {_MARK[phase.outcome][0]} in {phase.seconds:.1f} s: {phase.summary}")


class LiveView:
    """A table of the phases, drawn again as they go on."""

    def __init__(self, console: Console, names: tuple[str, ...]) -> None:
        self._names = names
        self._ended: dict[str, Phase] = {}
        self._current: str | None = None
        self._began_s = 0.0
        self._line = ""
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=8, transient=False)

    def __enter__(self) -> Self:
        """Begin showing."""
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing, the last state left on the screen."""
        self._live.__exit__(kind, error, trace)

    def phase_began(self, name: str) -> None:
        """A phase begins."""
        self._current, self._line, self._began_s = name, "", time.monotonic()

    def note(self, text: str) -> None:
        """One line about the phase under way."""
        self._line = text

    def output(self, data: bytes) -> None:
        """Bytes a child printed: the last line of them is shown."""
        self._line = last_line(data) or self._line

    def phase_ended(self, phase: Phase) -> None:
        """A phase has ended."""
        self._ended[phase.name] = phase
        self._current = None

    def _draw(self) -> Group:
        table = Table.grid(padding=(0, 2))
        table.add_column(width=8)
        table.add_column(width=11)
        table.add_column(justify="right", width=8)
        table.add_column(overflow="fold")
        for name in self._names:
            if name in self._ended:
                phase = self._ended[name]
                word, color = _MARK[phase.outcome]
                table.add_row(name, Text(word, style=color), f"{phase.seconds:.1f} s", Text(phase.summary))
            elif name == self._current:
                elapsed = time.monotonic() - self._began_s
                table.add_row(
                    Text(name, style="bold"), self._spinner, f"{elapsed:.0f} s", Text(self._line, style="dim")
                )
            else:
                table.add_row(Text(name, style="dim"), "", "", "")
        return Group(table)
