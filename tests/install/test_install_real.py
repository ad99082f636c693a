"""The real uv against a small index on loopback."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause, Outcome
from ongpu.errors import BlockedError, RefusedError, UnknownError, UsageError, WorkError
from ongpu.install import platform_of

pytestmark = [pytest.mark.process, pytest.mark.network]


def by_name(rows: Any) -> dict[str, Any]:
    return {row.name: row for row in rows}


def test_the_milestones_project(world: Any) -> None:
    report = world.install(project=world.project(), extra="training")
    assert (report.outcome, report.cause) == (Outcome.PROVEN, None)
    installed = by_name(report.installed)
    assert installed["torch"].version == "2.14.1+cu126"
    assert installed["torch"].url == world.index.url("cu/torch/torch-2.14.1%2Bcu126-py3-none-any.whl")
    assert len(installed["torch"].sha256) == 64
    assert installed["transformers"].version == "4.57.0"
    assert installed["numpy"].version == "2.4.6", "numpy must come from the default index, not from torch's"
    assert installed["backend"].built
    assert installed["backend"].version == "0.1"
    left_out = by_name(report.excluded)
    assert set(left_out) == {"flax", "jax", "jaxlib", "optax", "orbax-checkpoint"}
    assert left_out["jax"].wanted_by == ("backend[training] (jax[cpu])", "flax", "optax", "orbax-checkpoint")
    assert all(row.action == "excluded" and row.reason for row in report.excluded)
    pinned = by_name(report.overridden)["torch"]
    assert pinned.action == "pinned"
    assert "backend[training] (torch>=2.0.0)" in pinned.wanted_by
    names = {one.name for one in report.environment.packages}
    assert not names & set(left_out)
    assert world.left() == [".venv-gpu", "backend"]
    assert report.activation[0].command == f"source {world.venv}/bin/activate"
    assert Path(report.log).is_file()


def test_the_moved_environment_works(world: Any) -> None:
    world.install(project=world.project(), extra="training")
    script = world.venv / "bin" / "tf"
    said = subprocess.run([script], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"transformers {world.venv}/lib/")
    line = (
        f"source {world.venv}/bin/activate && tf && python -c 'import sys, torch; print(sys.prefix, torch.__version__)'"
    )
    said = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [f"transformers {next(world.venv.glob('lib/*'))}/site-packages/transformers.py",
                                 f"{world.venv} 2.14.1+cu126"]  # fmt: skip
    assert not [one for one in world.venv.glob("bin/activate*") if b".partial-" in one.read_bytes()]


def test_a_second_install_uses_the_first_again(world: Any) -> None:
    backend = world.project()
    first = world.install(project=backend, extra="training")
    asked = len(world.index.asked)
    second = world.install(project=backend, extra="training")
    assert (second.reused, second.outcome) == (True, Outcome.PROVEN)
    assert second.installed == first.installed
    assert second.excluded == first.excluded
    assert len(world.index.asked) == asked, "nothing was asked of the index"


def test_another_request_does_not_touch_it(world: Any) -> None:
    world.install(project=world.project(), extra="training")
    before = (world.venv / "ongpu-complete.json").read_bytes()
    with pytest.raises(UsageError, match="differs in: extra") as caught:
        world.install(project=world.folder / "backend", extra="other")
    assert "--replace" in caught.value.next_step
    assert (world.venv / "ongpu-complete.json").read_bytes() == before
    report = world.install(project=world.folder / "backend", extra="other", replace=True)
    assert (report.outcome, report.reused) == (Outcome.PROVEN, False)
    assert world.left() == [".venv-gpu", "backend"]


def test_a_changed_project_is_seen(world: Any) -> None:
    world.install(project=world.project(), extra="training")
    world.project(training=(*("torch", "transformers<5"),))
    with pytest.raises(UsageError, match="the project's own files"):
        world.install(project=world.folder / "backend", extra="training")


def test_a_swapped_torch_in_a_complete_environment_is_refuted(world: Any) -> None:
    world.install()
    text = next(world.venv.glob("lib/*/site-packages/torch/version.py"))
    text.unlink()  # uv links files from its cache: write anew, not into the cache
    text.write_text("__version__ = '2.14.1+cpu'\ncuda = None\n", "utf-8")
    report = world.install()
    assert (report.reused, report.outcome, report.cause) == (True, Outcome.REFUTED, Cause.CPU_ONLY_TORCH)
    assert world.install(replace=True).outcome is Outcome.PROVEN


def test_companions_come_from_torchs_index_in_the_pair_that_fits(world: Any) -> None:
    report = world.install(
        decision=world.decision(command=("uv", "pip", "install", "torch==2.14.1", "torchvision==0.29.1"))
    )
    installed = by_name(report.installed)
    assert installed["torchvision"].version == "0.29.1+cu126"
    assert "/cu/" in installed["torchvision"].url


def test_a_companion_nobody_planned_for_is_paired_too(world: Any) -> None:
    world.wheel("pypi", "timm", "1.0", requires=("torch", "torchvision"))
    report = world.install(requirements=("timm",))
    assert by_name(report.installed)["torchvision"].version == "0.29.1+cu126"


def test_pypis_own_variant(world: Any) -> None:
    world.torch("pypi", "2.15.0", "13.2", requires=("triton",))
    report = world.install(decision=world.decision("2.15.0", "cu132", index=None))
    # 2.15.0+cpu, on the same index, satisfies ==2.15.0 as well and sorts above it.
    assert report.outcome is Outcome.PROVEN
    assert by_name(report.installed)["torch"].version == "2.15.0"
    assert report.environment.torch.cuda_tag == "cu132"


def test_an_index_with_nothing_but_the_cpu_variant(world: Any) -> None:
    world.torch("cpu", "2.14.1+cpu", None)
    with pytest.raises(BlockedError, match="contradict"):
        world.install(decision=world.decision(index_url=world.index.url("cpu")), index_url=world.index.url("cpu"))


def test_another_variant_of_the_same_version_is_not_taken(world: Any) -> None:
    world.torch("pypi", "2.14.1+cu118", "11.8")
    with pytest.raises(BlockedError, match="not a build for cu130") as caught:
        world.install(decision=world.decision("2.14.1", "cu130", index=None))
    assert caught.value.cause == "cuda-version-mismatch"


def test_a_dependency_cannot_swap_torch(world: Any) -> None:
    world.wheel("pypi", "oldlib", "1.0", requires=("torch==2.0.1",))
    with pytest.raises(BlockedError, match="contradict") as caught:
        world.install(requirements=("oldlib",))
    assert caught.value.cause == "python-env"
    assert any("torch==2.0.1" in line for line in caught.value.lines)
    assert world.left() == [".venv-gpu.failed.log"]
    assert "torch==2.0.1" in (world.folder / ".venv-gpu.failed.log").read_text()


def test_a_cpu_build_asked_for_by_name_gives_way_to_the_decided_one(world: Any) -> None:
    report = world.install(project=world.project(training=("torch==2.14.1+cpu", "numpy")), extra="training")
    assert report.outcome is Outcome.PROVEN
    (change,) = [row for row in report.overridden if row.action == "variant-replaced"]
    assert (change.name, change.wanted_by) == ("torch", ("backend[training]",))
    url = world.index.url("pypi/torch/torch-2.13.0%2Bcpu-py3-none-any.whl")
    with pytest.raises(BlockedError, match="asks for the build") as caught:
        world.install(project=world.project("other", training=(f"torch @ {url}",)), extra="training", replace=True)
    assert "torch==2.13.0" in caught.value.next_step


def test_what_an_override_hides_from_the_resolver_is_found_afterwards(world: Any) -> None:
    world.wheel("pypi", "oldlib", "1.0", requires=("torch<2",))
    folder = world.project(training=("torch==2.14.1+cpu", "oldlib"))
    report = world.install(project=folder, extra="training")
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.PYTHON_ENV)
    assert "oldlib 1.0 wants torch<2" in report.reason
    assert world.left() == [".venv-gpu.failed.log", "backend"]


def test_a_projects_own_index_for_torch_is_not_followed(world: Any) -> None:
    more = (
        "[tool.uv.sources]\ntorch = { index = 'cpu' }\n"
        f"[[tool.uv.index]]\nname = 'cpu'\nurl = '{world.index.url('elsewhere')}'\nexplicit = true\n"
    )
    report = world.install(project=world.project(more=more), extra="training")
    assert report.outcome is Outcome.PROVEN
    assert [row.name for row in report.overridden if row.action == "source-ignored"] == ["torch"]
    assert not [path for path in world.index.asked if path.startswith("/elsewhere")]


def test_a_wheel_that_lies_about_its_cuda_is_refuted(world: Any) -> None:
    world.torch("cu", "2.14.1+cu126", None)
    report = world.install()
    assert (report.outcome, report.cause) == (Outcome.REFUTED, Cause.CPU_ONLY_TORCH)
    assert world.left() == [".venv-gpu.failed.log"]
    assert Path(report.log).name == ".venv-gpu.failed.log"


def test_allow_lets_a_name_in(world: Any) -> None:
    report = world.install(project=world.project(), extra="training", allow=("JAX", "jaxlib"))
    assert {"jax", "jaxlib"} <= {one.name for one in report.installed}
    assert by_name(report.excluded)["jax"].action == "allowed"
    assert by_name(report.excluded)["flax"].action == "excluded"
    with pytest.raises(UsageError, match="'numpy' names nothing"):
        world.install(allow=("numpy",))


def test_a_wrong_hash_installs_nothing(world: Any) -> None:
    world.index.wrong_hash.add("numpy-2.4.6-py3-none-any.whl")
    with pytest.raises(RefusedError, match="numpy"):
        world.install(requirements=("numpy",))
    assert world.left() == [".venv-gpu.failed.log"]


def test_a_wrong_hash_of_torch_itself(world: Any) -> None:
    world.index.wrong_hash.add("torch-2.14.1+cu126-py3-none-any.whl")
    with pytest.raises(RefusedError, match="torch"):
        world.install()
    assert world.left() == [".venv-gpu.failed.log"]


def test_dry_run_installs_nothing_and_tells_all(world: Any) -> None:
    report = world.install(project=world.project(), extra="training", dry_run=True)
    assert (report.outcome, report.dry_run, report.python) == (Outcome.UNKNOWN, True, None)
    assert by_name(report.installed)["torch"].version == "2.14.1+cu126"
    assert {row.name for row in report.excluded} == {"flax", "jax", "jaxlib", "optax", "orbax-checkpoint"}
    assert world.left() == ["backend"]


def test_a_lock_for_another_machine(world: Any) -> None:
    """Windows, CPython 3.13, resolved on this machine: its wheels, its markers."""
    for tag in ("cp313-cp313-win_amd64", "cp313-cp313-manylinux_2_28_x86_64", "cp312-cp312-win_amd64"):
        world.wheel("pypi", "native", "1.0", tag=tag)
    platform = platform_of(Machine(os="windows", arch="x86_64"))
    file = world.folder / "pylock.windows.toml"
    wanted = ("native", "transformers; sys_platform == 'win32'", "flax; sys_platform == 'linux'")
    report = world.install(platform=platform, python="3.13", dry_run=True, requirements=wanted, lock_file=file)
    assert report.outcome is Outcome.UNKNOWN
    installed = by_name(report.installed)
    assert installed["native"].url.endswith("native-1.0-cp313-cp313-win_amd64.whl")
    assert "transformers" in installed
    assert report.excluded == (), "flax is asked for on Linux only"
    assert tomllib.loads(file.read_text())["lock-version"] == "1.0"
    assert world.left() == ["pylock.windows.toml"]
    with pytest.raises(UsageError, match="another machine cannot be made"):
        world.install(platform=platform, python="3.13")


def test_offline_from_a_folder(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels and more"
    wheels.mkdir()
    world.wheel("more", "buildtool", "1.0")
    shelves = ("cu/t*", "pypi/nvidia*", "pypi/numpy", "more/*")
    for path in (found for shelf in shelves for found in world.shelf.glob(f"{shelf}/*.whl")):
        (wheels / path.name).write_bytes(path.read_bytes())
    folder = world.project(training=("jax", "torch"), dependencies=())
    text = (folder / "pyproject.toml").read_text("utf-8")
    (folder / "pyproject.toml").write_text(text.replace("requires = []", "requires = ['buildtool']"), "utf-8")
    monkeypatch.chdir(tmp_path)
    report = world.install(offline=True, find_links=("wheels and more",), project=folder, extra="training")
    assert report.outcome is Outcome.PROVEN
    assert world.index.asked == []
    assert [row.name for row in report.excluded] == ["jax"]
    assert report.notes, "without an index nobody can tell who else wants jax, and that is said"


def test_an_index_that_hangs(world: Any) -> None:
    world.index.hangs = ("/cu/",)
    with pytest.raises(WorkError, match="does not answer in time"):
        world.install(variables={"UV_HTTP_TIMEOUT": "1"})
    assert world.left() == [".venv-gpu.failed.log"]


def test_an_index_that_drips(world: Any) -> None:
    world.index.drips = ("/cu/",)
    with pytest.raises(UnknownError, match="within 2 s"):
        world.install(resolve_timeout_s=2.0)
    assert world.left() == [".venv-gpu.failed.log"]


def test_an_index_that_is_not_there(world: Any) -> None:
    with pytest.raises(WorkError, match="not reachable") as caught:
        world.install(index_url="http://127.0.0.1:9/simple", decision=world.decision(index=None))
    assert "--index-url" in caught.value.next_step


def test_no_tls_where_tls_is_asked(world: Any) -> None:
    url = world.index.url("pypi").replace("http:", "https:")
    with pytest.raises(WorkError, match="TLS"):
        world.install(index_url=url, decision=world.decision(index=None))


SECRET = "hunter2hunter2"


def test_a_password_is_used_and_never_shown(world: Any) -> None:
    world.index.password = SECRET
    login = f"user:{SECRET}@"
    decision = world.decision(index_url=world.index.url("cu", login=login))
    report = world.install(
        decision=decision, index_url=world.index.url("pypi", login=login), project=world.project(), extra="training"
    )
    assert report.outcome is Outcome.PROVEN
    assert SECRET not in repr(report)
    assert SECRET.encode() not in bytes(world.output)
    holding = [one for one in world.folder.rglob("*") if one.is_file() and SECRET.encode() in one.read_bytes()]
    assert holding == []


def test_a_wrong_password_is_not_shown_either(world: Any) -> None:
    world.index.password = SECRET
    url = world.index.url("pypi", login="user:wrongwrong@")
    with pytest.raises(WorkError, match="401") as caught:
        world.install(index_url=url, decision=world.decision(index_url=world.index.url("cu", login="user:wrongwrong@")))
    assert "wrongwrong" not in str(caught.value)
    assert "wrongwrong" not in (world.folder / ".venv-gpu.failed.log").read_text()


def test_variables_of_uv_and_pip_change_nothing(world: Any) -> None:
    elsewhere = world.index.url("elsewhere")
    variables = {
        "UV_INDEX": elsewhere,
        "UV_EXTRA_INDEX_URL": elsewhere,
        "PIP_EXTRA_INDEX_URL": elsewhere,
        "UV_TORCH_BACKEND": "cpu",
        "UV_OVERRIDE": "/nonexistent",
        "PYTHONPATH": "/nonexistent",
    }
    assert world.install(variables=variables).outcome is Outcome.PROVEN
    assert not [path for path in world.index.asked if path.startswith("/elsewhere")]


def test_a_project_folder_with_a_strange_name(world: Any) -> None:
    folder = world.project("my $(project) #1 [x];é")
    report = world.install(project=folder, extra="training")
    assert report.outcome is Outcome.PROVEN


def test_a_project_that_is_not_editable(world: Any) -> None:
    report = world.install(project=world.project(), extra="training", editable=False)
    assert report.outcome is Outcome.PROVEN
    assert list(world.venv.glob("lib/*/site-packages/backend_code.py"))
    again = world.install(project=world.folder / "backend", extra="training", editable=False)
    assert any("copy of that day" in note for note in again.notes)


def test_a_project_that_does_not_build(world: Any) -> None:
    folder = world.project()
    (folder / "in_tree_backend.py").write_text("raise RuntimeError('no')\n", "utf-8")
    with pytest.raises(BlockedError, match="does not build"):
        world.install(project=folder, extra="training")
    assert world.left() == [".venv-gpu.failed.log", "backend"]


def test_what_builds_against_torch_builds_against_the_decided_one(world: Any) -> None:
    """A build in isolation fetches a torch of its own: unconstrained it would be the newest, here the CPU bait."""
    folder = world.project()
    text = (folder / "pyproject.toml").read_text("utf-8")
    (folder / "pyproject.toml").write_text(text.replace("requires = []", "requires = ['torch']"), "utf-8")
    backend = (folder / "in_tree_backend.py").read_text("utf-8")
    look = "import torch\n(pathlib.Path(__file__).parent / 'built_with').write_text(torch.__version__)\n"
    (folder / "in_tree_backend.py").write_text(backend.replace("HERE =", look + "HERE =", 1), "utf-8")
    assert world.install(project=folder, extra="training").outcome is Outcome.PROVEN
    assert (folder / "built_with").read_text() == "2.14.1+cu126"


def test_a_build_that_was_ruled_out(world: Any) -> None:
    world.index.folder.joinpath("pypi", "onlysource").mkdir()
    world.index.folder.joinpath("pypi", "onlysource", "onlysource-1.0.tar.gz").write_bytes(b"never opened")
    with pytest.raises(BlockedError):
        world.install(requirements=("onlysource",), build=False)


def test_a_python_that_is_not_there(world: Any) -> None:
    with pytest.raises(UsageError, match=r"Python 3[.]7") as caught:
        world.install(python="3.7", variables={"UV_PYTHON_DOWNLOADS": "never"})
    assert "--python" in caught.value.next_step


def test_the_record_is_json_and_names_its_schema(world: Any) -> None:
    world.install()
    record = json.loads((world.venv / "ongpu-complete.json").read_text())
    assert record["schema"] == "ongpu/environment/1"
    assert not (world.venv / "ongpu-building").exists()
    assert tomllib.loads((world.venv / "pylock.toml").read_text())["packages"]
