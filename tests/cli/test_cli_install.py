"""``ongpu install`` as a user meets it, up to where an index would be asked: the rest is in tests/install."""

from __future__ import annotations

from pathlib import Path

import pytest

from ongpu.cli.installing import Progress
from tests.cli.cli_harness import here


def project(folder: Path, torch: str) -> None:
    """A project like the milestone's, in ``backend``, whose extra asks for this torch."""
    (folder / "backend").mkdir()
    (folder / "backend" / "pyproject.toml").write_text(
        f'[project]\nname = "backend"\nversion = "0.1"\n[project.optional-dependencies]\ntraining = ["{torch}"]\n',
        "utf-8",
    )


def test_the_projects_own_requirement_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    project(tmp_path, "torch>=2.15")
    words = ["install", "--dry-run", "--gpu", "Tesla V100", "--driver", "580.95.05", "--project", "backend"]
    ran = here([*words, "--extra", "training", "--json"], capsys)
    assert ran.status == 3 and ran.document()["error"]["cause"] == "wheel-no-arch", ran.err
    assert [one.name for one in tmp_path.iterdir()] == ["backend"]


BAD = [
    ["--driver", "580.95.05"],
    ["--gpu", "T4", "--os", "windows"],
    ["--gpu", "T4", "--venv", "file"],
    ["--gpu", "T4", "--venv", "full"],
    ["--gpu", "T4", "--offline"],
    ["--gpu", "T4", "--extra", "training"],
    ["--gpu", "T4", "--project", "nowhere"],
    ["--gpu", "T4", "--project", "backend", "--extra", "other"],
    ["--gpu", "T4", "--project", "backend", "--extra", "training"],  # asks for a torch that never was
    ["--gpu", "T4", "--torch", "torch==2.9.1+cpu"],
]


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_bad_input_starts_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    project(tmp_path, "torch<1.0")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("mine")
    ran = here(["install", *words], capsys)
    assert ran.status == 2 and "Next: " in ran.err, ran.err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["backend", "file", "full"]
    assert (tmp_path / "full" / "kept").read_text() == "mine"


def test_what_is_downloaded_is_counted() -> None:
    progress = Progress()
    shown = [line for line in SAID if progress.take(line)]
    assert progress.line == "0.10 of 0.63 GB downloaded; under way: torch"
    assert "Activate with: source x.partial/bin/activate" not in shown and len(shown) == 4
    progress.take("Downloaded torch")
    assert progress.line == "Resolved 30 packages in 1s"


SAID = [
    "Activate with: source x.partial/bin/activate",
    "Resolved 30 packages in 1s",
    "Downloading torch (507.1MiB)",
    "Downloading nvidia-cublas (97.0MiB)",
    "Downloaded nvidia-cublas",
]
