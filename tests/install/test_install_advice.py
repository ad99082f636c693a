"""Lines for environments that something else makes: tried with the real uv where it makes them."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ongpu.install.advice import dockerfile_lines, notebook_lines, uv_project_lines, uv_project_notes
from ongpu.install.uv import find_uv


def uv(world: Any, *words: str, folder: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "UV_CACHE_DIR": str(world.cache), "UV_PYTHON_DOWNLOADS": "never"}
    argv = [str(find_uv()), *words, "--python", sys.executable]
    subprocess.run(argv, cwd=folder, env=environment, check=True, capture_output=True)


@pytest.mark.process
@pytest.mark.network
def test_the_lines_hold_a_uv_project_to_the_decision(world: Any) -> None:
    """Without them uv locks the CPU-only bait; with them the decided build, also for what wants it indirectly."""
    world.wheel("pypi", "timm", "1.0", requires=("torch", "torchvision", "jax"))
    folder = world.folder / "uvproject"
    folder.mkdir()
    text = (
        '[project]\nname = "mine"\nversion = "0.1"\nrequires-python = ">=3.11"\ndependencies = ["timm"]\n'
        f'[[tool.uv.index]]\nname = "pypi"\nurl = "{world.index.url("pypi")}"\ndefault = true\n'
    )
    decision = world.decision()
    (folder / "pyproject.toml").write_text(text)
    uv(world, "lock", folder=folder)
    plain = (folder / "uv.lock").read_text()
    versions = {one["name"]: one["version"] for one in tomllib.loads(plain)["package"]}
    assert versions["torch"] == "2.14.1", "the pair of torchvision's index; on a real one, the newest"
    assert any("not 2.14.1+cu126" in note for note in uv_project_notes(text, plain, decision))
    (folder / "pyproject.toml").write_text(text + uv_project_lines(decision, excluded=("jax", "jaxlib")))
    uv(world, "lock", folder=folder)
    held = (folder / "uv.lock").read_text()
    versions = {one["name"]: one["version"] for one in tomllib.loads(held)["package"]}
    assert versions["torch"] == "2.14.1+cu126"
    assert versions["torchvision"] == "0.29.1+cu126"
    assert "jax" not in versions
    assert len(uv_project_notes(text, held, decision)) == 1


def test_a_project_without_uv_gets_no_notes(world: Any) -> None:
    assert uv_project_notes('[project]\nname = "x"\n', None, world.decision()) == ()
    assert uv_project_notes("[tool.uv]\n", None, world.decision())
    assert len(uv_project_notes("[tool.uv]\n", "not toml =", world.decision())) == 1


def test_pypis_own_variant_needs_no_index(world: Any) -> None:
    decision = world.decision("2.15.0", "cu132", index=None)
    lines = uv_project_lines(decision)
    assert tomllib.loads(lines)["tool"]["uv"]["constraint-dependencies"][0] == "torch==2.15.0"
    assert "index" not in lines
    assert "--index-url" not in dockerfile_lines(decision, python="3.12")


def test_an_image_and_a_notebook(world: Any) -> None:
    decision = world.decision(index_url="https://download.pytorch.org/whl/cu126")
    lines = dockerfile_lines(decision, python="3.12", project="backend", extra="training")
    assert (
        "pip install --no-cache-dir torch==2.14.1+cu126 --index-url https://download.pytorch.org/whl/cu126\n" in lines
    )
    assert "'/project[training]'" in lines
    assert notebook_lines(decision).startswith("%pip install torch==2.14.1+cu126 --index-url https://")
