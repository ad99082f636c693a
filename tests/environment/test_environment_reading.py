"""What an environment holds: read by its own Python, or from its files where that cannot run."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.domain.arch import RuntimeVersion
from ongpu.environment import (
    environment_from_answer,
    read_environment,
    read_files,
    torch_from_version_text,
    without_credentials,
)
from ongpu.machine.process import RealProcesses

PAYLOAD = Path(__file__).parents[2] / "src/ongpu/payload/read_environment.py"
VERSION = (
    "from typing import Optional\n__all__ = ['__version__', 'cuda', 'hip']\n"
    "__version__ = {!r}\ncuda: Optional[str] = {!r}\nhip: Optional[str] = {!r}\n"
)


def distribution(site: Path, name: str, version: str, *, requires: str = "", direct: object = None) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(lines + (f"Requires-Dist: {requires}\n" if requires else ""))
    if direct is not None:
        (info / "direct_url.json").write_text(json.dumps(direct))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A bare environment of this Python; its site-packages are handed over."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    return next((tmp_path / "env").glob("lib/python*/site-packages"))


def put_torch(site: Path, version: str, cuda: str | None, hip: str | None = None) -> None:
    (site / "torch").mkdir()
    (site / "torch/__init__.py").write_text("raise SystemExit('torch was imported')\n")
    (site / "torch/version.py").write_text(VERSION.format(version, cuda, hip))
    distribution(site, "torch", version)


def python_of(site: Path) -> Path:
    return site.parents[2] / "bin/python"


@pytest.mark.process
def test_torch_is_read_and_never_imported(made: Path) -> None:
    put_torch(made, "2.14.1+cu126", "12.6")
    distribution(
        made,
        "My_Package",
        "1.0",
        requires="torch>=2",
        direct={"url": "https://u:pw@example.org/x.whl", "archive_info": {}},
    )
    found = read_environment(python_of(made), processes=RealProcesses())
    assert found.ran
    assert found.virtual
    assert found.problems == ()
    assert found.torch is not None
    assert (found.torch.version, found.torch.cuda_tag, found.torch.cpu_only) == ("2.14.1+cu126", "cu126", False)
    assert found.torch.runtime == RuntimeVersion(major=12, minor=6)
    package = found.package("my-package")
    assert package is not None
    assert (package.version, package.requires) == ("1.0", ("torch>=2",))
    assert package.direct_url == "https://example.org/x.whl"
    assert found.python.version == ".".join(map(str, sys.version_info[:3]))
    assert found.site_packages == (str(made),)


@pytest.mark.process
def test_the_files_alone_say_the_same(made: Path) -> None:
    put_torch(made, "2.14.1", "13.0")
    distribution(made, "numpy", "2.4.6")
    ran = read_environment(python_of(made), processes=RealProcesses())
    alone = read_files(python_of(made), reason="not run")
    assert alone.torch == ran.torch
    assert alone.torch is not None
    assert alone.torch.cuda_tag == "cu130"
    assert [(one.name, one.version) for one in alone.packages] == [(one.name, one.version) for one in ran.packages]
    assert not alone.ran
    assert alone.problems == ("not run",)


@pytest.mark.process
def test_a_python_that_cannot_run(made: Path) -> None:
    put_torch(made, "2.14.1+cpu", None)
    python = python_of(made)
    python.unlink()
    gone = read_environment(python, processes=RealProcesses())
    assert "cannot be started" in gone.problems[0]
    python.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    python.chmod(0o755)
    broken = read_environment(python, processes=RealProcesses())
    assert "status 3: broken" in broken.problems[0]
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    slow = read_environment(python, processes=RealProcesses(), timeout_s=0.3)
    assert "did not answer" in slow.problems[0]
    for found in (gone, broken, slow):
        assert found.torch is not None
        assert found.torch.cpu_only
        assert not found.ran


@pytest.mark.process
def test_what_is_broken_is_told(made: Path) -> None:
    put_torch(made, "2.14.1+cu126", "12.6")
    distribution(made, "torch", "2.13.0+cpu")
    distribution(made, "numpy", "1.0")
    (made / "odd-1.0.dist-info").mkdir()
    (made / "odd-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\n")
    (made / "numpy-1.0.dist-info/direct_url.json").write_text("{")
    problems = "\n".join(read_environment(python_of(made), processes=RealProcesses()).problems)
    assert "torch is in" in problems
    assert "twice" in problems
    assert "no name or no version" in problems
    assert "direct_url.json of numpy" in problems


@pytest.mark.process
def test_damaged_metadata_is_told_by_both_ways_of_reading(made: Path) -> None:
    for name in ("empty-1.0.dist-info", "binary-1.0.dist-info", "noversion-1.0.dist-info"):
        (made / name).mkdir()
    (made / "binary-1.0.dist-info/METADATA").write_bytes(bytes(range(256)))
    (made / "noversion-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: noversion\n")
    distribution(made, "whole", "1.0")
    for found in (
        read_environment(python_of(made), processes=RealProcesses()),
        read_files(python_of(made), reason="not run"),
    ):
        assert found.package("whole") is not None
        assert found.package("noversion") is None
        assert len([one for one in found.problems if "a package in" in one]) == 3


@pytest.mark.process
def test_a_torn_torch(made: Path) -> None:
    distribution(made, "torch", "2.14.1+cu126")
    found = read_environment(python_of(made), processes=RealProcesses())
    assert found.torch is None
    assert "its files are not there" in found.problems[0]
    (made / "torch").mkdir()
    (made / "torch/leftover.py").touch()
    found = read_environment(python_of(made), processes=RealProcesses())
    assert found.torch is None
    assert any("no __init__.py" in one for one in found.problems)


@pytest.mark.process
def test_overlapping_installs_are_seen(made: Path) -> None:
    put_torch(made, "2.14.1+cu126", "12.6")
    (made / "torch/version.py").write_text(VERSION.format("2.13.0+cpu", None, None))
    found = read_environment(python_of(made), processes=RealProcesses())
    assert any("two installs overlap" in one for one in found.problems)


@pytest.mark.process
def test_what_stands_in_front_of_the_environment(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_torch(made, "2.14.1+cu126", "12.6")
    distribution(made, "numpy", "2.1")
    front, named = tmp_path / "front", tmp_path / "named"
    front.mkdir()
    named.mkdir()
    put_torch(front, "2.13.0+cpu", None)
    distribution(front, "numpy", "1.26")
    distribution(named, "mine", "0.1")
    (made / "mine.pth").write_text(f"{named}\n{tmp_path / 'nowhere'}\n")
    plain = read_environment(python_of(made), processes=RealProcesses())
    assert (plain.added, plain.ahead) == ((str(named),), None)
    assert plain.package("mine") is not None
    monkeypatch.setenv("PYTHONPATH", f"{front}:{tmp_path / 'nowhere'}:{made}")
    found = read_environment(python_of(made), processes=RealProcesses())
    assert found.torch == plain.torch
    assert found.packages == plain.packages
    assert found.ahead is not None
    assert found.ahead.folders == (str(front),)
    assert found.ahead.torch is not None
    assert found.ahead.torch.version == "2.13.0+cpu"
    assert found.ahead.hides == (("numpy", "2.1"), ("torch", "2.14.1+cu126"))


@pytest.mark.process
def test_chatter_of_start_up_hooks_is_no_answer(made: Path) -> None:
    put_torch(made, "2.14.1+cu126", "12.6")
    (made / "hook.pth").write_text("import sys; sys.stdout.write('ongpu-environ')\n")
    found = read_environment(python_of(made), processes=RealProcesses())
    assert found.ran
    assert found.torch is not None


@pytest.mark.process
def test_reading_leaves_nothing_behind(made: Path) -> None:
    put_torch(made, "2.14.1+cu126", "12.6")
    before = sorted(made.rglob("*"))
    read_environment(python_of(made), processes=RealProcesses())
    assert sorted(made.rglob("*")) == before


@pytest.mark.process
def test_the_payload_imports_only_the_standard_library(made: Path) -> None:
    line = (
        f"import runpy, sys; sys.modules['torch'] = None; runpy.run_path({str(PAYLOAD)!r}, run_name='x'); print('ok')"
    )
    done = subprocess.run([python_of(made), "-I", "-S", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "ok\n"


def test_builds_of_other_makers() -> None:
    rocm = torch_from_version_text(VERSION.format("2.9.0+rocm6.4", None, "6.4.1"), path="/x")
    assert rocm is not None
    assert (rocm.cuda_tag, rocm.cpu_only, rocm.hip) == (None, False, "6.4.1")
    conda = torch_from_version_text(VERSION.format("2.5.1.post8", "12.6", None), path="/x")
    assert conda is not None
    assert (conda.cuda_tag, conda.cpu_only) == ("cu126", False)
    source = torch_from_version_text(VERSION.format("2.15.0a0+git1234", "13.0", None), path="/x")
    assert source is not None
    assert source.cuda_tag == "cu130"
    nvidia = torch_from_version_text(VERSION.format("2.9.0a0+50eac811a6.nv25.09", "13.0", None), path="/x")
    assert nvidia is not None
    assert (nvidia.cuda_tag, nvidia.public_version) == ("cu130", "2.9.0a0")
    assert torch_from_version_text("cuda = '12.6'\n", path="/x") is None
    wrapped = torch_from_version_text("__version__ = TorchVersion('2.1.0')\ncuda = None\n", path="/x")
    assert wrapped is not None
    assert wrapped.cuda_tag == "cpu"


@given(text=st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    found = torch_from_version_text(text, path="/x")
    assert found is None or found.version


@given(major=st.integers(9, 99), minor=st.integers(0, 9))
def test_a_runtime_gives_its_tag(major: int, minor: int) -> None:
    found = torch_from_version_text(VERSION.format("2.0", f"{major}.{minor}", None), path="/x")
    assert found is not None
    assert found.cuda_tag == f"cu{major}{minor}"
    assert not found.cpu_only


@given(user=st.text("abc:%40", min_size=1), path=st.text("abc/@", max_size=9))
def test_credentials_never_stay(user: str, path: str) -> None:
    assert without_credentials(f"https://{user}@example.org/{path}") == f"https://example.org/{path}"


def test_a_system_python_is_not_virtual() -> None:
    answer = {
        "version": "3.12.3",
        "implementation": "cpython",
        "executable": "/usr/bin/python3",
        "prefix": "/usr",
        "base_prefix": "/usr",
        "free_threaded": False,
        "site_packages": ["/usr/lib/python3/dist-packages"],
        "added": [],
        "ahead": {"folders": []},
        "packages": [],
        "torch": {"path": "/usr/lib/python3/dist-packages/torch", "version_text": None},
        "problems": [],
    }
    found = environment_from_answer(Path("/usr/bin/python3"), json.dumps(answer).encode())
    assert not found.virtual
    assert found.python.environment is None
    assert found.torch is None
    assert "does not say which version" in found.problems[0]


@pytest.mark.process
def test_a_torch_that_pip_put_over_condas(made: Path) -> None:
    put_torch(made, "2.14.1+cu126", "12.6")
    prefix = made.parents[2]
    (prefix / "conda-meta").mkdir()
    plain = read_environment(python_of(made), processes=RealProcesses())
    assert (plain.kind, plain.problems) == ("conda", ())
    (prefix / "conda-meta/pytorch-2.5.1-cuda126_py311.json").touch()
    (made / "torch-2.14.1+cu126.dist-info/INSTALLER").write_text("conda\n")
    assert read_environment(python_of(made), processes=RealProcesses()).problems == ()
    (made / "torch-2.14.1+cu126.dist-info/INSTALLER").write_text("pip\n")
    mixed = read_environment(python_of(made), processes=RealProcesses())
    assert any("put by pip over the one conda installed" in one for one in mixed.problems)


LINES = st.lists(
    st.sampled_from(
        [
            "Name: one",
            "name:two",
            "Version: 1.0",
            "Version:  2.0",
            "Requires-Dist: torch>=2; extra == 'a'",
            "Requires-Dist: numpy",
            "License: of several",
            "        lines",
            "        ",
            "\tand a tab",
            "Description-Content-Type: text/markdown",
            "",
            "a line of the description: Name: three",
        ]
    ),
    max_size=12,
)
READ_WHEEL = runpy.run_path(str(PAYLOAD), run_name="read_environment")["_wheel"]


@given(LINES, st.sampled_from(["\n", "\r\n"]))
def test_metadata_is_read_as_importlib_reads_it(lines: list[str], ending: str) -> None:
    text = ending.join(["Metadata-Version: 2.1", *lines])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "METADATA").write_bytes(text.encode())
        name, version, requires, _, _ = READ_WHEEL(folder)
        told = metadata.Distribution.at(Path(folder)).metadata
    both = [(name, version, *requires), (told["Name"], told["Version"], *(told.get_all("Requires-Dist") or []))]
    ours, theirs = (
        [one and one.split() for one in fields] for fields in both
    )  # folded lines are joined by each its way
    assert ours == theirs
