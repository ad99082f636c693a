"""The bundles in the tree, made on real GPUs by the tool itself: the checker accepts them, and nothing changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ongpu.domain.verdict import Outcome
from ongpu.evidence.check import Answer, check

RUNS = Path(__file__).parents[2] / "submission_runs"
BUNDLES = sorted(path.parent for path in RUNS.glob("*/manifest.json") if not path.parent.name.startswith("m40_"))
MILESTONE_FILES = ("env_info.txt", "torch_cuda_check.txt", "training_log.txt", "nvidia_smi.txt", "README.md")


def test_there_is_one() -> None:
    assert BUNDLES


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_a_real_bundle_is_accepted_and_proven(bundle: Path) -> None:
    report = check(bundle)
    assert report.answer is Answer.ACCEPTED, report.problems
    assert report.verdict is not None and report.verdict.outcome is Outcome.PROVEN
    assert not report.simulated
    assert all((bundle / name).stat().st_size for name in MILESTONE_FILES)
    assert "Using device: cuda" in (bundle / "training_log.txt").read_text("utf-8")


@pytest.mark.parametrize("name", [*MILESTONE_FILES, "journal.jsonl", "verdict.json"])
def test_a_changed_file_is_refused(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(BUNDLES[0], copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    assert check(copy).answer is Answer.REFUSED


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_it_names_no_folder_of_the_machine_it_was_made_on(bundle: Path) -> None:
    for file in bundle.iterdir():
        text = file.read_text("utf-8")
        assert not [word for word in ("/home/", "/root", "/opt/", "/tmp/") if word in text], file.name
