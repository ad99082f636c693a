"""The output folder: claimed before anything is written, one record a step, and a model that transformers loads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

from ongpu.errors import UsageError, WorkError
from ongpu.training.checkpoint import FOLDER as CHECKPOINTS
from ongpu.training.checkpoint import sync

RUN: Final = "run.json"
METRICS: Final = "metrics.jsonl"
TENSORBOARD: Final = "tensorboard"
_STAGED: Final = ".model.partial"
_LAST: Final = ("config.json", "adapter_config.json")
_OURS: Final = (RUN, METRICS, TENSORBOARD, CHECKPOINTS, *_LAST, "model.safetensors", "tokenizer.json")
_NEXT: Final = "Choose another --output"


class RunFolder:
    """The folder of one run. Made by :meth:`claim`."""

    def __init__(self, path: Path, *, created: tuple[Path, ...]) -> None:
        self.path = path
        self._created = created
        self._metrics: IO[str] | None = None
        self._held: int | None = None

    @classmethod
    def claim(cls, path: Path, *, resume: bool) -> RunFolder:
        """Check that a run can begin (or go on) in ``path``, and make the folder.

        :raises UsageError: it is a file, it holds another run, or there is nothing to resume.
        :raises WorkError: it cannot be written.
        """
        try:
            if path.exists() and not path.is_dir():
                raise UsageError(f"The output {path} is a file, not a folder.", next_step=f"{_NEXT}.")
            state = _state(path)
            taken = [name for name in _OURS if (path / name).exists()]
            if resume and state is None:
                raise UsageError(
                    f"There is no run to resume in {path}.", next_step="Leave --resume out, or give its --output."
                )
            if not resume and taken:
                how = f"a {state} run" if state else f"{taken[0]}, which this run would write"
                more = "" if state is None or state == "finished" else ", or remove that folder"
                if more and any((path / CHECKPOINTS).glob("step-*")):
                    more = ", or continue it with --resume"
                raise UsageError(f"The output folder {path} already holds {how}.", next_step=f"{_NEXT}{more}.")
            created = tuple(folder for folder in (path, *path.parents) if not folder.exists())
            path.mkdir(parents=True, exist_ok=True)
            probe = path / f".writable-{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink()
            shutil.rmtree(path / _STAGED, ignore_errors=True)
        except OSError as error:
            raise WorkError(
                f"The output folder {path} cannot be written: {error.strerror}.", next_step=f"{_NEXT}, or make room."
            ) from None
        folder = cls(path, created=created)
        folder._lock()
        return folder

    def _lock(self) -> None:
        """Keep other runs out until :meth:`close`; a killed run holds nothing back. On Windows nothing is locked."""
        if sys.platform == "win32":
            return
        import fcntl  # noqa: PLC0415 - does not exist on Windows

        self._held = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise UsageError(f"Another run is writing to {self.path} now.", next_step=f"{_NEXT}.") from None
        except OSError:
            return  # a file system without locks

    def release(self) -> None:
        """Remove what :meth:`claim` made, where nothing was written into it: no half-made folder stays."""
        for folder in self._created:
            try:
                folder.rmdir()
            except OSError:
                return

    def refuse_full_disk(self, weights: int) -> None:
        """:class:`WorkError` before the first step, where so many float32 numbers could not be saved after the last."""
        free_bytes, needed_bytes = shutil.disk_usage(self.path).free, weights * 4
        if free_bytes < needed_bytes:
            raise WorkError(
                f"The disk of {self.path} has {free_bytes / 2**20:,.0f} MiB left, and the model alone takes "
                f"{needed_bytes / 2**20:,.0f} MiB.",
                next_step="Make room, or choose an --output on another disk.",
            )

    def write_state(self, state: str, facts: Mapping[str, object]) -> None:
        """Replace ``run.json``: ``running``, ``finished``, ``interrupted`` or ``failed``, and the run's facts."""
        aside = self.path / f"{RUN}.partial"
        try:
            aside.write_text(json.dumps({"schema": "ongpu/train-run/1", "state": state, **facts}, indent=2) + "\n")
            sync(aside)
            aside.replace(self.path / RUN)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise WorkError(
                f"{self.path / RUN} cannot be written: {error.strerror}.", next_step="Make room on the disk."
            ) from None

    def record(self, values: Mapping[str, object]) -> None:
        """Append one line to ``metrics.jsonl``; it is there when this returns."""
        try:
            if self._metrics is None:
                self._metrics = (self.path / METRICS).open("a", encoding="utf-8", newline="\n")
            self._metrics.write(json.dumps(values, allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise WorkError(
                f"{self.path / METRICS} cannot be written: {error.strerror}.",
                next_step="Make room on the disk, and start again in another --output.",
            ) from None

    def forget_after(self, step: int) -> None:
        """Drop the records of steps after ``step``, and a torn last line: a resumed run writes them again."""
        path = self.path / METRICS
        if not path.exists():
            return
        kept = [line for line in path.read_text("utf-8").splitlines() if _step_of(line) in range(1, step + 1)]
        aside = path.with_suffix(".partial")
        aside.write_text("".join(line + "\n" for line in kept), "utf-8")
        aside.replace(path)

    def save_model(self, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a folder aside, then move its files into the run's folder, ``run.json`` untouched."""
        staged = self.path / _STAGED
        try:
            staged.mkdir()
            write(staged)
            names = sorted(staged.iterdir(), key=lambda file: file.name in _LAST)
            for file in names:
                sync(file)
            for file in names:  # these last: without them the folder is no model
                file.replace(self.path / file.name)
            sync(self.path)
        except (OSError, WorkError) as error:
            reason = error.message if isinstance(error, WorkError) else f"{error.strerror}."
            raise WorkError(
                f"The model cannot be saved in {self.path}: {reason}",
                next_step="Make room on the disk, and train again in another --output.",
            ) from None
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def close(self) -> None:
        """Close what is open."""
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # each record was flushed, so a failure here was reported before
                self._metrics.close()
            self._metrics = None
        if self._held is not None:
            os.close(self._held)
            self._held = None


class Elsewhere(RunFolder):
    """The folder as every rank but the first has it: the first one alone writes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, created=())

    def write_state(self, state: str, facts: Mapping[str, object]) -> None:
        """Leave it to the first rank."""

    def record(self, values: Mapping[str, object]) -> None:
        """Leave it to the first rank."""

    def forget_after(self, step: int) -> None:
        """Leave it to the first rank."""

    def save_model(self, write: Callable[[Path], None]) -> None:
        """Leave it to the first rank."""


def _state(path: Path) -> str | None:
    try:
        return str(json.loads((path / RUN).read_text("utf-8"))["state"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        return "damaged"


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1
