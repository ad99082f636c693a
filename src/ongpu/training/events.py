"""TensorBoard events, where TensorBoard is installed; one line says so where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ongpu.errors import WorkError
from ongpu.training.output import TENSORBOARD


class EventLog:
    """Scalars of a run as TensorBoard shows them. Made by :meth:`open`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    @classmethod
    def open(cls, output: Path, *, wanted: bool, first_step: int, note: Callable[[str], None]) -> EventLog:
        """Begin a log in the run's folder; ``note`` is told where there will be none."""
        if not wanted:
            return cls(None)
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional
        except ImportError:
            note("TensorBoard is not installed, so no events are written; metrics.jsonl has the same figures.")
            return cls(None)
        try:
            return cls(SummaryWriter(str(output / TENSORBOARD), purge_step=first_step, flush_secs=10))
        except OSError as error:
            raise WorkError(
                f"{output / TENSORBOARD} cannot be written: {error.strerror}.", next_step="Make room on the disk."
            ) from None

    def add(self, step: int, **scalars: float) -> None:
        """Write the scalars of a step."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
