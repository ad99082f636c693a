"""TensorBoard events, where TensorBoard is installed; one line says so where it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ongpu.errors import WorkError
from ongpu.training.output import TENSORBOARD


class EventLog:
    """Scalars of a run as TensorBoard shows them. Made by :meth:`open`."""

    def __init__(self, writer: Any, *, path: Path) -> None:
        self._writer = writer
        self._path = path

    @classmethod
    def open(cls, output: Path, *, wanted: bool, first_step: int, note: Callable[[str], None]) -> EventLog:
        """Begin a log in the run's folder; ``note`` is told where there will be none."""
        path = output / TENSORBOARD
        if not wanted:
            return cls(None, path=path)
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional
        except ImportError:
            note("TensorBoard is not installed, so no events are written; metrics.jsonl has the same figures.")
            return cls(None, path=path)
        log = cls(None, path=path)
        with log._translated():
            log._writer = SummaryWriter(str(path), purge_step=first_step, flush_secs=10)
        return log

    def add(self, step: int, **scalars: float) -> None:
        """Write the scalars of a step; :class:`WorkError` where the disk is full."""
        if self._writer is not None:
            with self._translated():
                for name, value in scalars.items():
                    self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        """Write what is left; :class:`WorkError` where the disk is full."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._translated():
                writer.close()

    def abandon(self) -> None:
        """Close without a word: another error is on its way. After :meth:`close` it does nothing."""
        with contextlib.suppress(WorkError):
            self.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkError(
                f"{self._path} cannot be written: {error.strerror or error}.", next_step="Make room on the disk."
            ) from None
