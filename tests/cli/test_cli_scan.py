"""``ongpu scan`` as a user types it: the matrix, the gate, environments as folders, the counts in the document."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ongpu.cli.app import run
from ongpu.report.contract import contract
from tests.cli.cli_harness import ongpu

DATA = Path(__file__).parents[1] / "scan" / "data"


@pytest.fixture(autouse=True)
def _screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def document(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status = run(["scan", *words, "--json"])
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, contract("scan"))
    return status, found


def installed(folder: Path, name: str, *files: str) -> None:
    """A package as an installer leaves it, of binaries of the test data."""
    made = folder / f"{name}-1.0.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    rows = []
    for file in files:
        (folder / name).mkdir(exist_ok=True)
        shutil.copy(DATA / file, folder / name / file)
        digest = base64.urlsafe_b64encode(hashlib.sha256((DATA / file).read_bytes()).digest()).rstrip(b"=").decode()
        rows.append(f"{name}/{file},sha256={digest},1\n")
    (made / "RECORD").write_text("".join(rows))


def test_without_a_gpu_there_is_a_column_for_each_generation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", str(DATA / "targets.fatbin")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["GTX", "10", "V100", "RTX", "20", "A100", "RTX", "30", "RTX", "40", "H100", "B200",
                                "RTX", "50"]  # fmt: skip
    assert lines[2].split() == ["package", "6.1", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
    assert lines[3].split() == ["targets.fatbin", "NO", "NO", "yes", "NO", "NO", "NO", "yes", "yes", "yes"]
    assert "PTX compute_120 x 1 (PTX ISA 9.0)" in " ".join(lines)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["targets.fatbin", "--fail-on", "jit", "--gpu", "T4", "--gpu", "H100", "--gpu", "RTX 5090"], 0),
        (["targets.fatbin", "--fail-on", "none", "--gpu", "T4", "--gpu", "A100"], 1),
        (["compute_103a.ptx", "--fail-on", "jit", "--compute-capability", "10.3"], 1),
        (["compute_103a.ptx", "--fail-on", "partial", "--compute-capability", "10.3"], 0),
        (["host_only.so", "--fail-on", "none", "--gpu", "T4"], 3),  # nothing to judge is not a yes
        (["archive.a", "--fail-on", "none", "--gpu", "A100"], 3),
        (["targets.fatbin", "--fail-on", "none"], 2),  # for which GPU?
        (["targets.fatbin", "--fail-on", "bad", "--gpu", "T4"], 2),
        (["targets.fatbin", "--python", "python"], 2),
        (["no-such-file"], 2),
    ],
)
def test_the_gate(words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", str(DATA / words[0]), *words[1:]]) == status
    out, err = capsys.readouterr()
    if status == 1:
        assert "fails: " in out
    if status == 2:
        assert "Next: " in err
    if status == 3:
        assert "not known: " in err
        assert "Nothing here has precompiled CUDA code" in out


def test_the_document_counts_by_target_and_place(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = document(capsys, str(DATA / "targets.fatbin"), "--gpu", "H100")
    (binary,) = found["binaries"]
    assert binary["sass"] == {"sm_75": 1, "sm_90a": 1, "sm_100f": 1, "sm_120": 1}
    assert binary["ptx_isa"] == {"compute_120": "9.0", "compute_120f": "9.0"}
    assert (binary["role"], binary["rocm"], binary["fit"]) == ("runtime", False, {"9.0": "native"})
    _, found = document(capsys, str(DATA / "outside.so"), "--gpu", "H100")
    assert found["binaries"][0]["outside"] and found["binaries"][0]["containers"]
    _, found = document(capsys, str(DATA / "archive.a"), "--gpu", "H100")
    assert found["binaries"][0]["relocatable"] == {"sm_80": 2}
    assert (found["binaries"][0]["role"], found["binaries"][0]["fit"]) == ("link-input", {})


def test_a_folder_that_is_an_environment_is_read_by_packages_and_nothing_in_it_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    installed(site, "good", "targets.fatbin")
    installed(site, "old", "sm_75.cubin")
    (tmp_path / "venv" / "pyvenv.cfg").write_text("version = 3.12.3\n")
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    python.chmod(0o755)
    (site / "torch").mkdir()
    (site / "torch" / "version.py").write_text("__version__ = '2.14.1+cu130'\ncuda: str = '13.0'\n")
    status, found = document(capsys, str(tmp_path / "venv"), "--gpu", "H100", "--fail-on", "none")
    assert {one["name"]: one["fit"]["9.0"] for one in found["packages"]} == {"good": "native", "old": "none"}
    assert (status, found["runtime"], found["driver_cuda"]) == (1, "13.0", None)
    assert [text.partition(":")[0] for text in found["failing"]] == ["old on 9.0"]
    assert not (tmp_path / "started").exists()


def test_a_conda_prefix_is_read_by_conda_packages_and_by_those_of_pip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(tmp_path / "lib" / "python3.12" / "site-packages", "from_pip", "sm_75.cubin")
    shutil.copy(DATA / "targets.fatbin", tmp_path / "lib" / "libconda.fatbin")
    (tmp_path / "conda-meta").mkdir()
    record = {"name": "libconda", "version": "2", "files": ["lib/libconda.fatbin"]}
    (tmp_path / "conda-meta" / "libconda-2-0.json").write_text(json.dumps(record))
    _, found = document(capsys, str(tmp_path), "--gpu", "T4")
    owners = {one["package"]: Path(one["path"]).name for one in found["binaries"]}
    assert owners == {"libconda": "libconda.fatbin", "from_pip": "sm_75.cubin"}


def test_a_file_that_cannot_be_read_is_unknown_and_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(tmp_path, "good", "targets.fatbin")
    installed(tmp_path, "looping", "sm_90a.cubin")
    loop = tmp_path / "looping" / "sm_90a.cubin"
    loop.unlink()
    loop.symlink_to(loop)
    status, found = document(capsys, str(tmp_path), "--gpu", "H100", "--fail-on", "none")
    assert {one["name"]: one["fit"]["9.0"] for one in found["packages"]} == {"good": "native", "looping": "unknown"}
    assert status == 3 and any("cannot be read" in text for text in found["problems"])


def test_a_few_files_have_a_row_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(DATA / "library.so", tmp_path / "one.so")
    shutil.copy(DATA / "host_only.so", tmp_path / "two.so")
    shutil.copy(DATA / "outside.so", tmp_path / "three.so")
    assert run(["scan", str(tmp_path), "--gpu", "A100", "--gpu", "H100"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["one.so", "yes", "NO"] in rows and ["three.so", "NO", "yes"] in rows and rows[2][:2] == ["(no", "package)"]


@pytest.mark.process
def test_an_environment_by_its_python_is_judged_for_the_driver_of_its_machine(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in driver with")
    source = DATA.parents[1] / "standins" / "cuda.c"  # of CUDA 13.0
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(source)], check=True)
    driver = {"LD_LIBRARY_PATH": str(tmp_path)}
    ran = ongpu(["scan", "--python", sys.executable, "--quick", "--json"], cwd=tmp_path, variables=driver)
    assert ran.status == 0, ran.err
    found = ran.document()
    assert found["deep"] is False and found["files_read"] > 0 and len(found["devices"]) == 9
    assert found["driver_cuda"] == "13.0"
