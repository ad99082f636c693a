"""The list of faults is whole, and names tests that there are."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = tomllib.loads((Path(__file__).parent / "faults.toml").read_text("utf-8"))["fault"]


def functions(path: Path) -> set[str]:
    return {one.name for one in ast.parse(path.read_text("utf-8")).body if isinstance(one, ast.FunctionDef)}


def test_every_fault_is_there_once_and_made_or_says_why_not() -> None:
    assert [one["number"] for one in FAULTS] == list(range(1, 85))
    for one in FAULTS:
        made = bool(one.get("tests") or one.get("gpu"))
        assert made != ("not_done" in one) and made == ("comes" in one), one
        assert one.keys() <= {"number", "what", "comes", "tests", "gpu", "lacks", "not_done"}, one


def test_every_test_of_the_list_is_there() -> None:
    guard = Path(__file__).parents[1] / "guard"
    on_gpu = {name for path in guard.glob("test_guard_*gpu*.py") for name in functions(path)}
    for one in FAULTS:
        for named in one.get("tests", ()):
            path, _, function = named.partition("::")
            assert function.partition("[")[0] in functions(ROOT / path), named
        assert set(one.get("gpu", ())) <= on_gpu, one


def test_no_fault_of_this_folder_is_left_out_of_the_list() -> None:
    here = Path(__file__).parent
    listed = {named.partition("::")[2].partition("[")[0] for one in FAULTS for named in one.get("tests", ())}
    for path in (here / "test_faults_command.py", here / "test_faults_supervisor.py"):
        tests = {name for name in functions(path) if name.startswith("test_")}
        assert tests - listed <= {"test_what_the_faults_are_done_to_is_proven"}
