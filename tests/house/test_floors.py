"""Imports go downward only. The floors are those of the design; a planted violation must be seen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "ongpu"

FLOOR = {
    "errors": 0,
    "domain": 1,
    "machine": 2,
    "catalog": 2,
    "probe": 3,
    "plan": 3,
    "install": 3,
    "environment": 3,
    "scan": 3,
    "smoke": 3,
    "stage": 3,
    "guard": 3,
    "evidence": 3,
    "diagnose": 3,
    "proof": 4,  # a bundle with a guarded command in it: what enable and prove_run both stand on
    "enable": 5,
    "doctor": 5,
    "explain": 5,
    "prove_run": 5,
    "report": 6,
    "cli": 7,
    "notebook": 8,  # a front door as the command line is, with the same doors behind it
    "__main__": 8,
}
# Run by another Python: what they may import of ours.
APART = {"payload": set(), "guard/hook": set(), "training": {"training", "domain", "errors"}}
# What the checker may import besides the floors' rule: nobody must need our dependencies to check a bundle.
CHECKER_FORBIDDEN = {"msgspec", "typer", "rich", "jinja2", "psutil", "pynvml", "torch", "yaml", "packaging", "uv"}


def imported(source: str) -> Iterator[str]:
    """Every absolute module name a source imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """What the file at ``path`` (relative to the package) imports that its floor forbids."""
    ours = {name.split(".")[1] for name in imported(source) if name.startswith("ongpu.") and name.count(".")}
    apart = next((allowed for room, allowed in APART.items() if path.startswith(room + "/")), None)
    if apart is not None:
        return [f"{path} stands apart but imports ongpu.{name}" for name in sorted(ours - apart)]
    room = path.split("/", maxsplit=1)[0].removesuffix(".py")
    if room == "__init__":
        return [f"the package imports ongpu.{name} at import time" for name in sorted(ours)]
    floor = FLOOR[room]
    return [
        f"{path} (floor {floor}) imports ongpu.{name}"
        for name in sorted(ours - {room})
        if FLOOR.get(name, -1) >= floor and name in FLOOR
    ]


FILES = sorted(SRC.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SRC)))
def test_imports_go_down(file: Path) -> None:
    assert violations(str(file.relative_to(SRC)), file.read_text("utf-8")) == []


def test_the_test_can_fail() -> None:
    assert violations("domain/arch.py", "from ongpu.machine import nvml")
    assert violations("scan/elf.py", "import ongpu.plan")
    assert violations("payload/x.py", "from ongpu.domain import arch")
    assert violations("training/loop.py", "from ongpu import smoke")
    assert not violations("cli/__init__.py", "from ongpu.enable import enable")


def test_the_checker_needs_none_of_our_dependencies() -> None:
    files = [*SRC.glob("evidence/*.py"), *SRC.glob("domain/*.py"), SRC / "errors.py"]
    found = {(file.name, name.split(".")[0]) for file in files for name in imported(file.read_text("utf-8"))}
    assert {(file, name) for file, name in found if name in CHECKER_FORBIDDEN} == set()


def test_every_room_has_a_floor() -> None:
    rooms = {path.name.removesuffix(".py") for path in SRC.iterdir() if path.suffix == ".py" or path.is_dir()}
    apart = {name.split("/")[0] for name in APART}
    assert rooms - {"__init__", "__pycache__", "py.typed"} - apart <= set(FLOOR)
