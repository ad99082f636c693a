"""Which Python is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ongpu.environment import choose_python
from ongpu.errors import UsageError


def made(folder: Path, tail: str = "bin/python") -> Path:
    python = folder / tail
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    return python


def test_the_active_one_wins_over_folders(tmp_path: Path) -> None:
    made(tmp_path / ".venv-gpu")
    active = made(tmp_path / "active")
    found = choose_python(None, cwd=tmp_path, variables={"VIRTUAL_ENV": str(tmp_path / "active")})
    assert found == active


def test_venv_gpu_before_venv(tmp_path: Path) -> None:
    made(tmp_path / ".venv")
    assert choose_python(None, cwd=tmp_path, variables={}) == tmp_path / ".venv/bin/python"
    gpu = made(tmp_path / ".venv-gpu", "Scripts/python.exe")
    assert choose_python(None, cwd=tmp_path, variables={}) == gpu


def test_condas_base_comes_last_another_conda_first(tmp_path: Path) -> None:
    conda = made(tmp_path / "conda")
    variables = {"CONDA_PREFIX": str(tmp_path / "conda"), "CONDA_DEFAULT_ENV": "base"}
    assert choose_python(None, cwd=tmp_path, variables=variables) == conda
    made(tmp_path / ".venv")
    assert choose_python(None, cwd=tmp_path, variables=variables) == tmp_path / ".venv/bin/python"
    assert choose_python(None, cwd=tmp_path, variables={**variables, "CONDA_DEFAULT_ENV": "train"}) == conda


def test_ongpus_own_is_never_the_default_and_that_is_said(tmp_path: Path) -> None:
    own = made(tmp_path / ".venv")
    with pytest.raises(UsageError, match="ongpu's own environment") as caught:
        choose_python(
            None, cwd=tmp_path, variables={"VIRTUAL_ENV": str(tmp_path / ".venv")}, own_prefix=tmp_path / ".venv"
        )
    assert "--python" in caught.value.next_step
    assert choose_python(".venv", cwd=tmp_path, variables={}, own_prefix=tmp_path / ".venv") == own


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none is active"):
        choose_python(None, cwd=tmp_path, variables={})


def test_an_active_one_that_is_gone_is_not_passed_over(tmp_path: Path) -> None:
    made(tmp_path / ".venv")
    with pytest.raises(UsageError, match="VIRTUAL_ENV names"):
        choose_python(None, cwd=tmp_path, variables={"VIRTUAL_ENV": str(tmp_path / "gone")})


@pytest.mark.parametrize("said", ["train", "train/bin/python", "./train", "python9"])
def test_what_is_named_is_found(tmp_path: Path, said: str) -> None:
    python = made(tmp_path / "train")
    on_path = made(tmp_path / "tools", "python9")
    found = choose_python(said, cwd=tmp_path, variables={"PATH": str(tmp_path / "tools")})
    assert found in {python, on_path}


@pytest.mark.parametrize("said", ["", "empty", "nothing", "no/such/python", "-c"])
def test_what_is_named_and_not_there(tmp_path: Path, said: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError):
        choose_python(said, cwd=tmp_path, variables={"PATH": os.defpath})


def test_links_are_kept(tmp_path: Path) -> None:
    """A virtual environment's Python is a link to its base; followed, the environment would be lost."""
    base = made(tmp_path / "base")
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(base)
    assert choose_python("venv", cwd=tmp_path, variables={}) == tmp_path / "venv/bin/python"
