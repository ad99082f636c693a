"""A lock for the planned machine: by the real uv over a folder of small wheels, and each failure named."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ongpu import catalog
from ongpu.domain.build import Decision
from ongpu.domain.machine import Machine
from ongpu.errors import BlockedError, DoorError, UsageError, WorkError
from ongpu.machine.process import Completed, RealProcesses
from ongpu.plan import Request, plan
from ongpu.plan.lock import lock, lock_command

UV = str(Path(sys.executable).parent / "uv")


def planned(name: str, **request: str) -> tuple[Machine, Decision]:
    machine = catalog.described_machine(name)
    return machine, plan(machine, catalog=catalog.load(), request=Request(**request))  # type: ignore[arg-type]


def wheel(folder: Path, name: str, version: str, tag: str, *requires: str) -> None:
    info = f"{name}-{version}.dist-info"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    folder.joinpath(f"{name}-{version}-{tag}.whl").write_bytes(out.getvalue())


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with the chosen torch for Linux, a CPU build of a higher version as bait, and what torch needs."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder, "torch", "2.14.1+cu126", "cp312-cp312-manylinux_2_28_x86_64", "filelock")
    wheel(folder, "torch", "2.99.0+cpu", "cp312-cp312-manylinux_2_28_x86_64")
    wheel(folder, "filelock", "3.0.0", "py3-none-any")
    return folder


@pytest.mark.process
@pytest.mark.parametrize("form", ["pylock", "requirements"])
def test_the_real_uv_locks_the_chosen_build_with_hashes(shelf: Path, form: str) -> None:
    machine, decision = planned("gtx1080ti-linux")
    text = lock(
        decision,
        machine,
        processes=RealProcesses(),
        uv=UV,
        form=form,
        also=("filelock>=1",),
        find_links=str(shelf),
        python=sys.executable,
        env=dict(os.environ),
    )
    assert "2.14.1+cu126" in text
    assert "2.99.0" not in text
    assert "sha256" in text
    if form == "pylock":
        packages = {one["name"]: one["version"] for one in tomllib.loads(text)["packages"]}
        assert packages == {"torch": "2.14.1+cu126", "filelock": "3.0.0"}


@pytest.mark.process
def test_what_cannot_be_resolved_ends_with_uvs_own_explanation(shelf: Path) -> None:
    machine, decision = planned("gtx1080ti-linux")
    with pytest.raises(WorkError, match="torch"):
        lock(
            decision,
            machine,
            processes=RealProcesses(),
            uv=UV,
            also=("torch>2.90",),
            find_links=str(shelf),
            python=sys.executable,
            env=dict(os.environ),
        )


class ReplayedUv:
    """uv as one recorded answer; it keeps the words it was started with."""

    def __init__(self, *, status: int = 0, stdout: str = "", stderr: str = "", timed_out: bool = False) -> None:
        self._answer = (status, stdout.encode(), stderr.encode(), timed_out)
        self.words: tuple[str, ...] = ()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_output: Callable[[bytes], None] | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> Completed:
        self.words = tuple(argv)
        if argv[0] == "missing":
            raise DoorError(door="process", code="not-found", reason="missing")
        status, stdout, stderr, timed_out = self._answer
        return Completed(argv=self.words, status=status, stdout=stdout, stderr=stderr, seconds=0.1, timed_out=timed_out)


# From the real uv 0.13.9 against PyPI, shortened to two packages.
PYLOCK = """lock-version = "1.0"
created-by = "uv"
requires-python = ">=3.12"

[[packages]]
name = "torch"
version = "2.15.0"
wheels = [{ url = "https://files.example/torch-2.15.0.whl", hashes = { sha256 = "6d8c86f4" } }]

[[packages]]
name = "torchvision"
version = "0.29.2"
wheels = [{ url = "https://files.example/torchvision-0.29.2.whl", hashes = { sha256 = "aa" } }]
"""


def test_the_words_name_the_platform_the_python_and_one_index() -> None:
    machine, decision = planned("gtx1080ti-linux")
    words = lock_command(decision, machine, uv="uv", source="in.txt", form="requirements")
    assert words[words.index("--python-platform") + 1] == "x86_64-manylinux_2_28"
    assert words[words.index("--python-version") + 1] == "3.12"
    assert words[words.index("--default-index") + 1] == "https://download.pytorch.org/whl/cu126"
    windows, chosen = planned("rtx5090-windows")
    words = lock_command(chosen, windows, uv="uv", source="in.txt", form="pylock")
    assert words[words.index("--python-platform") + 1] == "x86_64-pc-windows-msvc"
    machine, chosen = planned("gb10-aarch64")
    assert "--default-index" not in lock_command(chosen, machine, uv="uv", source="in.txt", form="pylock")


def test_a_lock_is_taken_only_with_the_chosen_torch_and_its_hash() -> None:
    machine, decision = planned("rtx5090-linux")
    assert lock(decision, machine, processes=ReplayedUv(stdout=PYLOCK), uv="uv") == PYLOCK
    other = PYLOCK.replace('version = "2.15.0"', 'version = "2.15.0+cpu"')
    for text, said in (
        (other, "does not have torch"),
        (PYLOCK.replace("sha256", "md5", 1), "no hash"),
        ("", "not have"),
    ):
        with pytest.raises(WorkError, match=said):
            lock(decision, machine, processes=ReplayedUv(stdout=text), uv="uv")


def test_every_failure_of_uv_is_named() -> None:
    machine, decision = planned("rtx5090-linux")
    for uv, door, said in (
        ("missing", ReplayedUv(), "could not be started"),
        ("uv", ReplayedUv(timed_out=True, status=-9), "did not finish"),
        ("uv", ReplayedUv(status=1, stderr="error: no solution\n"), "no solution"),
        ("uv", ReplayedUv(status=2), "status 2"),
    ):
        with pytest.raises(WorkError, match=said) as refused:
            lock(decision, machine, processes=door, uv=uv)
        assert refused.value.next_step


def test_what_has_no_fixed_build_cannot_be_locked() -> None:
    machine, blocked = planned("rtx5090-v100-linux")
    with pytest.raises(BlockedError):
        lock(blocked, machine, processes=ReplayedUv(), uv="uv")
    machine, nightly = planned("rtx5090-linux", channel="nightly")
    with pytest.raises(UsageError, match="nightly"):
        lock(nightly, machine, processes=ReplayedUv(), uv="uv")
    machine, decision = planned("rtx5090-linux")
    with pytest.raises(UsageError, match="pylock or requirements"):
        lock(decision, machine, processes=ReplayedUv(), uv="uv", form="conda")
    threaded = dataclasses.replace(decision, python="3.14t")
    with pytest.raises(UsageError, match="free-threaded"):
        lock(threaded, machine, processes=ReplayedUv(), uv="uv")
