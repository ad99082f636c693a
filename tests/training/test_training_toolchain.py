"""What our kernels need of a machine, and what is said where it is missing."""

from __future__ import annotations

import importlib.util
import sysconfig
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from ongpu.training.toolchain import missing


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with Triton, gcc and Python's headers."""
    found = importlib.util.find_spec

    def with_triton(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name == "triton" else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", with_triton)
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda **_: {"include": str(tmp_path)})
    return tmp_path


def test_a_machine_with_all_of_it(machine: Path) -> None:
    assert missing({}, capability=(9, 0), head_width=64) == ""
    assert missing({}, capability=None, head_width=64) == ""


def test_what_is_missing_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing({}, capability=(7, 5), head_width=64).endswith("this GPU has 7.5")
    assert "80 wide" in missing({}, capability=(9, 0), head_width=80)
    (machine / "Python.h").unlink()
    assert "Python.h" in missing({}, capability=(9, 0), head_width=64)
    (machine / "gcc").unlink()
    assert "C compiler" in missing({}, capability=(9, 0), head_width=64)
    assert "C compiler" not in missing({"CC": "cc"}, capability=(9, 0), head_width=64)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert missing({}, capability=(9, 0), head_width=64) == "Triton is not installed"
