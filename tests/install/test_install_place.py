"""What an install that is killed, interrupted, refused or out of disk leaves: the old state, or the new one."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ongpu.domain.verdict import Outcome
from ongpu.environment import read_environment
from ongpu.errors import InterruptedRunError, UsageError, WorkError
from ongpu.install import place
from ongpu.machine.process import RealProcesses

STEPS = ("compile", "install", "commit", "marker", "settle")


def finished(folder: Path) -> Path:
    """A folder that looks like a complete environment."""
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    place.write_marker(folder, {"schema": "ongpu/environment/1"})
    return folder


def run_to_death(venv: Path, *, where: str, replace: bool) -> None:
    """In a process of its own: build, and be killed at ``where``."""
    code = f"""
import os, signal, pathlib
from ongpu.install import place
from ongpu.machine.process import RealProcesses
def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)
where, venv = {where!r}, pathlib.Path({str(venv)!r})
if where == "marker":
    place.write_marker = die
with place.building(venv) as partial:
    (partial.folder / "bin").mkdir()
    (partial.folder / "new").touch()
    if where == "build":
        die()
    if where == "between":
        rename = pathlib.Path.rename
        def only_the_first(self, target):
            return die() if self == partial.folder else rename(self, target)
        pathlib.Path.rename = only_the_first
    place.commit(partial, marker={{"schema": "ongpu/environment/1", "new": True}}, replace={replace})
    if where == "settle":
        die()
    place.settle(partial)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(place.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL, "the fault did not fire"


@pytest.mark.process
@pytest.mark.parametrize("where", ["build", "between", "marker", "settle"])
@pytest.mark.parametrize("replace", [False, True])
def test_killed_at_any_step(tmp_path: Path, where: str, replace: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    venv = tmp_path / ".venv-gpu"
    if replace:
        finished(venv)
    run_to_death(venv, where=where, replace=replace)
    place.recover(venv)
    marker = place.complete_marker(venv)
    if where == "settle":
        assert marker is not None
        assert marker.get("new") is True
    elif replace:
        assert marker == {"schema": "ongpu/environment/1"}, "the old environment is back"
        assert not (venv / "new").exists()
    else:
        assert not venv.exists()
    assert [one.name for one in tmp_path.iterdir()] == ([venv.name] if venv.exists() else [])


def start_and_hang(world: Any) -> subprocess.Popen[bytes]:
    """The whole tool in a process of its own, waiting for a download that never comes."""
    world.index.hangs = ("/pypi/numpy/numpy-",)
    package = Path(place.__file__).parents[2]
    code = f"""
import sys, pathlib
sys.path.insert(0, {str(package)!r})
from ongpu.domain.build import Decision, DecisionKind
from ongpu.environment import read_environment
from ongpu.environment import read_environment
from ongpu.errors import InterruptedRunError
from ongpu.install import InstallRequest, install
from ongpu.machine.process import RealProcesses
decision = Decision(
    decision=DecisionKind.PREBUILT, torch="2.14.1", cuda_tag="cu126", index_url={world.index.url("cu")!r},
    command=(), fit=(), axes=(), cause=None, alternatives=(), assumptions=(), lost=(), next_step="-",
)
request = InstallRequest(
    decision=decision, venv=pathlib.Path({str(world.venv)!r}), requirements=("numpy",),
    index_url={world.index.url("pypi")!r},
)
variables = {{"UV_CACHE_DIR": {str(world.cache)!r}, "PATH": "/usr/bin:/bin", "UV_HTTP_TIMEOUT": "20"}}
try:
    install(
        request, processes=RealProcesses(), environment=variables,
        read=lambda python: read_environment(python, processes=RealProcesses()),
    )
except InterruptedRunError:
    sys.exit(130)
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: any(path.startswith("/pypi/numpy/numpy-") for path in world.index.asked))
    return child


@pytest.mark.process
@pytest.mark.network
def test_killed_in_the_installer(world: Any) -> None:
    """The whole tool is killed while uv downloads; the next install finds a clean place."""
    child = start_and_hang(world)
    try:
        with pytest.raises(UsageError, match="Another install"):
            world.install()
    finally:
        child.kill()
        child.wait()
    assert [one for one in world.left() if ".partial-" in one], "the fault did not fire"
    assert not world.venv.exists()
    world.index.hangs = ()
    assert world.install(requirements=("numpy",)).outcome is Outcome.PROVEN
    assert world.left() == [".venv-gpu"]


@pytest.mark.process
@pytest.mark.network
def test_ctrl_c_in_the_installer(world: Any) -> None:
    child = start_and_hang(world)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=30) == 130
    assert world.left() == []


def wait_for(condition: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


class Failing:
    """The real processes, but the first uv command whose words hold ``at`` raises instead."""

    def __init__(self, real: Any, *, at: str, error: BaseException) -> None:
        self.real, self.at, self.error, self.fired = real, at, error, False

    def run(self, argv: Any, **more: Any) -> Any:
        if self.at in argv and not self.fired:
            self.fired = True
            raise self.error
        return self.real.run(argv, **more)


@pytest.mark.process
@pytest.mark.parametrize("at", ["venv", "compile", "install"])
def test_an_interrupt_leaves_the_old_state(world: Any, at: str) -> None:
    world.processes = Failing(world.processes, at=at, error=KeyboardInterrupt())
    with pytest.raises(InterruptedRunError) as caught:
        world.install()
    assert world.processes.fired
    assert caught.value.exit_status == 130
    assert world.left() == []


@pytest.mark.process
@pytest.mark.parametrize("at", ["venv", "compile", "install"])
def test_a_full_disk_is_named(world: Any, at: str) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(world.folder))
    world.processes = Failing(world.processes, at=at, error=full)
    with pytest.raises(WorkError, match="No space left"):
        world.install()
    assert world.processes.fired
    assert not world.venv.exists()


@pytest.mark.process
def test_a_failed_replacement_brings_the_old_one_back(world: Any) -> None:
    world.install()
    before = json.loads((world.venv / "ongpu-complete.json").read_text())
    world.wheel("pypi", "oldlib", "1.0", requires=("torch<2",))
    with pytest.raises(Exception, match="contradict"):
        world.install(requirements=("oldlib",), replace=True)
    assert json.loads((world.venv / "ongpu-complete.json").read_text()) == before
    assert world.install().reused


@pytest.mark.process
def test_a_move_that_broke_it_is_undone(world: Any) -> None:
    """Good beside its place, broken in it: the old environment is back, and the answer is refuted."""
    world.install()
    made = (world.venv / "ongpu-complete.json").read_bytes()

    def read(python: Path) -> Any:
        found = read_environment(python, processes=RealProcesses())
        return dataclasses.replace(found, torch=None) if python.is_relative_to(world.venv) else found

    report = world.install(requirements=("numpy",), replace=True, read=read)
    assert report.outcome is Outcome.REFUTED
    assert (world.venv / "ongpu-complete.json").read_bytes() == made
    assert world.left() == [".venv-gpu", ".venv-gpu.failed.log"]


@pytest.mark.process
def test_what_lies_in_the_place_is_never_touched(world: Any) -> None:
    world.venv.write_text("a file")
    with pytest.raises(UsageError, match="is a file"):
        world.install(replace=True)
    assert world.venv.read_text() == "a file"
    world.venv.unlink()
    world.venv.mkdir()
    (world.venv / "thesis.tex").write_text("years")
    with pytest.raises(UsageError, match="is no environment"):
        world.install(replace=True)
    (world.venv / "pyvenv.cfg").write_text("home = /usr/bin\n")
    with pytest.raises(UsageError, match="did not make"):
        world.install(replace=True)
    assert (world.venv / "thesis.tex").read_text() == "years"


@pytest.mark.process
def test_an_empty_folder_is_taken(world: Any) -> None:
    world.venv.mkdir()
    assert world.install().outcome is Outcome.PROVEN


@pytest.mark.process
def test_the_active_environment_is_refused(world: Any) -> None:
    world.install()
    with pytest.raises(UsageError, match="active environment"):
        world.install(variables={"VIRTUAL_ENV": str(world.venv)}, replace=True)
    with pytest.raises(UsageError, match="active environment"):
        world.install(venv=Path(sys.prefix), replace=True)


@pytest.mark.process
def test_a_missing_parent_and_a_path_that_cannot_be(world: Any) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        world.install(venv=world.folder / "no" / "venv")
    with pytest.raises(UsageError, match="PATH cannot hold"):
        world.install(venv=world.folder / "a:b")


@pytest.mark.process
def test_a_link_is_not_followed(world: Any) -> None:
    (world.folder / "real").mkdir()
    world.venv.symlink_to(world.folder / "real")
    with pytest.raises(UsageError, match="is a link"):
        world.install()


def test_a_path_with_a_pattern_in_it(tmp_path: Path) -> None:
    """Another environment's leftovers are not ours, whatever the names look like as patterns."""
    other = tmp_path / "ab.partial-12345678"
    other.mkdir()
    place.recover(tmp_path / "a[b]*")
    assert other.is_dir()
