"""Standard streams that are full or closed: a command whose output is its work says so, without a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.cli_harness import environment

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full"),
]


def shell(words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    argv = ["sh", "-c", f"{sys.executable} -m ongpu {words}"]
    return subprocess.run(argv, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)


def test_an_answer_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    for words in ("plan --gpu 'RTX 5090' >/dev/full", "plan --gpu 'RTX 5090' --json >/dev/full"):
        ran = shell(words, tmp_path)
        assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 2), ran.stderr
        assert "cannot be written" in ran.stderr and "Next: " in ran.stderr


def test_a_closed_stream_is_nobody_who_listens(tmp_path: Path) -> None:
    assert shell("plan --gpu 'RTX 5090' >&- 2>&-", tmp_path).returncode == 0
    refused = shell("plan --gpu 'no such GPU' 2>&-", tmp_path)
    assert (refused.returncode, refused.stderr) == (2, "")
