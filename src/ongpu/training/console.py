"""What a run says: log lines on standard output, a progress bar on a terminal, errors on standard error."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from ongpu.errors import WorkError

if TYPE_CHECKING:
    from ongpu.training.loop import StepRecord


class SetUp:
    """Seconds of each part of a run's set-up, up to the end of its first step."""

    def __init__(self, began: float) -> None:
        self._began = self._last = began
        self.parts: dict[str, float] = {}

    def done(self, part: str) -> None:
        """Note that ``part`` ended now."""
        now = time.perf_counter()
        self.parts[part] = now - self._last
        self._last = now

    def so_far(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last part."""
        return self._last - self._began

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.parts.items())
        return f"Set-up until the first step was done: {self.seconds:.2f} s ({parts})"


class Console:
    """Lines and, where standard error is a terminal and tqdm is there, a progress bar.

    ``silent``: say nothing but errors, as every rank but the first does.
    """

    def __init__(self) -> None:
        self.silent = False
        self._bar: Any = None
        self._bar_refused = not sys.stderr.isatty()

    def say(self, *lines: str) -> None:
        """Print each line at once."""
        if self.silent:
            return
        if self._bar is not None:
            self._bar.clear()
        try:
            sys.stdout.write("".join(line + "\n" for line in lines))
            sys.stdout.flush()
        except BrokenPipeError:
            # what is left in the buffer goes nowhere, or Python would complain once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise WorkError(
                "Whoever read this run's output has gone.", next_step="Write it to a file, or read it to the end."
            ) from None

    def error(self, *lines: str) -> None:
        """Print each line on standard error."""
        self.close()
        sys.stderr.write("".join(line + "\n" for line in lines))
        sys.stderr.flush()

    def step(self, record: StepRecord, *, total: int, line: bool) -> None:
        """Advance the bar to this step, and print the step's line where ``line`` says so."""
        if line:
            held = record.memory_reserved_bytes
            memory = "" if held is None else f"  memory held {held / 2**30:.2f} GiB"
            self.say(
                f"step {record.step}/{total}  loss {record.loss:.4f}  lr {record.lr:.3g}  "
                f"{record.tokens_per_s:,.0f} tokens/s  {1e3 * record.seconds:.1f} ms{memory}"
            )
        if self._bar is None and not self._bar_refused and not self.silent:
            self._open(total, record.step - 1)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {record.loss:.4f}", refresh=False)
            self._bar.update(1)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, total: int, done: int) -> None:
        try:
            import tqdm  # noqa: PLC0415 - a run without a terminal needs no bar
        except ImportError:
            self._bar_refused = True
            return
        size = shutil.get_terminal_size()  # tqdm draws nothing on a terminal that claims to have no size
        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            unit="step",
            file=sys.stderr,
            leave=False,
            ncols=size.columns,
            nrows=size.lines,
        )
