"""How a command starts: what it does not import, and what it has begun by then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest
import typer

from ongpu.cli.plain import without_pydantic

HEAVY = ("pydantic", "pynvml", "psutil", "rich", "torch", "importlib.metadata")
STARTED = """
import json, sys
from ongpu.cli.app import run
status = run(sys.argv[1:])
print("loaded:", json.dumps([one for one in {heavy!r} if one in sys.modules]))
"""


@pytest.mark.process
@pytest.mark.parametrize("words", [("doctor", "--python", sys.executable, "--json"), ("probe", "--json")])
def test_looking_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    """What fails here after an update of Typer: it keeps its checks elsewhere now, see ongpu.cli.plain."""
    code = STARTED.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    (told,) = [one for one in done.stdout.splitlines() if one.startswith("loaded: ")]
    assert json.loads(told.removeprefix("loaded: ")) == []


@pytest.mark.process
def test_a_refused_command_line_leaves_nothing_running() -> None:
    argv = [sys.executable, "-m", "ongpu", "doctor", "--nonsense"]
    mark = uuid.uuid4().hex  # others may run the same checks on this machine
    done = subprocess.run(argv, capture_output=True, env={**os.environ, "ONGPU_TEST": mark}, timeout=60, check=False)
    assert b"--nonsense" in done.stderr
    assert done.returncode == 2
    left = [one for one in psutil.process_iter() if _environment(one).get("ONGPU_TEST") == mark]
    assert left == []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def parsed(*words: str) -> dict[str, object]:
    """What a command of every plain kind gets of a command line."""
    app = typer.Typer()
    got: dict[str, object] = {}

    @app.command()
    def command(path: Path | None = None, name: str | None = None, many: list[str] | None = None, n: int = 3) -> None:
        got.update(path=path, name=name, many=many, n=n)

    root = typer.main.get_command(app)
    without_pydantic(root, words)
    with root.make_context("it", list(words)) as context:
        root.invoke(context)
    return got


def test_words_and_paths_come_as_typer_gives_them(tmp_path: Path) -> None:
    assert parsed() == {"path": None, "name": None, "many": None, "n": 3}
    there = tmp_path / "there"
    there.touch()
    words = ("--path", str(there), "--name", "x", "--many", "a", "--many", "b", "--n", "7")
    assert parsed(*words) == {"path": there, "name": "x", "many": ["a", "b"], "n": 7}
    assert parsed("--path", str(tmp_path / "missing"))["path"] == tmp_path / "missing"


def test_a_number_that_is_none_is_refused_by_typer() -> None:
    with pytest.raises(Exception, match=r"'x' is not a valid|int_parsing|valid integer"):
        parsed("--n", "x")
