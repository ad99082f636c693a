"""The command as a user starts it: a process of its own, in a folder of its own, with a small environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str

    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; fails where there is anything else."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


SMALL = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "PYTHONHASHSEED")


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables a command gets; one that is given as empty is left out."""
    base = {name: os.environ[name] for name in SMALL if name in os.environ}
    made = {**base, "COLUMNS": "100", "NO_COLOR": "1", "UV_OFFLINE": "1", **(variables or {})}
    return {name: value for name, value in made.items() if value}


def here(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Ran:
    """Run ``ongpu WORDS`` in this process: for words that must be refused before anything is started."""
    from ongpu.cli.app import run

    capsys.readouterr()
    status = run(words)
    captured = capsys.readouterr()
    return Ran(status=status, out=captured.out, err=captured.err)


def ongpu(
    words: Sequence[str], *, cwd: Path, variables: Mapping[str, str] | None = None, timeout_s: float = 110
) -> Ran:
    """Run ``ongpu WORDS`` in ``cwd``."""
    done = subprocess.run(
        [sys.executable, "-m", "ongpu", *words],
        cwd=cwd,
        env=environment(variables),
        capture_output=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    ran = Ran(status=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())
    assert "Traceback" not in ran.err, ran.err
    return ran
