"""The parts of an install that are rules: policy, project, failures, secrets, locks, changes, judgment."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ongpu.domain.arch import RuntimeVersion
from ongpu.domain.build import Decision, DecisionKind
from ongpu.domain.environment import Environment, InstalledTorch, Package
from ongpu.domain.machine import Machine, PythonInstall
from ongpu.domain.verdict import Cause, Outcome
from ongpu.errors import BlockedError, OngpuError, RefusedError, UsageError, WorkError
from ongpu.install.advice import dockerfile_lines, notebook_lines, pixi_lines, uv_project_lines
from ongpu.install.changes import installed_graph, merged, wanted_by_graph
from ongpu.install.check import check_decision, check_values
from ongpu.install.failures import failure, shortened
from ongpu.install.judge import judge
from ongpu.install.lock import narrowed, parse_lock, tag_order
from ongpu.install.policy import parse_policy, policy, row_for
from ongpu.install.project import read_project
from ongpu.install.redact import Redactor
from ongpu.install.request import Installed, InstallRequest, activation_of
from ongpu.install.target import markers_for, platform_of, platform_tags_of
from ongpu.install.uv import clean_environment

# --- the policy


def test_the_policy_names_what_the_milestone_refuses() -> None:
    rows = policy()
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "libtpu", "tensorflow-tpu", "torch-xla"):
        row = row_for(name, rows)
        assert row is not None, name
        assert row.source.startswith("https://")
    for name in ("torch", "torchvision", "transformers", "numpy", "jaxtyping", "tensorflow"):
        assert row_for(name, rows) is None, name
    assert row_for("Torch_XLA", rows) is not None


ROW = '[[row]]\nkind = "k"\nnames = [{}]\nreason = "r"\nsource = "s"\nread = "2026-11-22"\n'


@pytest.mark.parametrize("names", ['"b", "a"', '"a", "a"', '"A"', '"a b"', '"-r x"', ""])
def test_a_policy_that_is_not_consistent_is_refused(names: str) -> None:
    assert parse_policy(ROW.format('"a", "b"'))
    with pytest.raises(ValueError, match="policy row 0"):
        parse_policy(ROW.format(names))


def test_a_name_in_two_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="policy row 1"):
        parse_policy(ROW.format('"a"') + ROW.format('"a"'))


# --- the project


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(text, "utf-8")
    return folder


PROJECT = """[project]
name = "Back_End"
version = "0.1"
dependencies = ["numpy"]
[project.optional-dependencies]
training = ["torch>=2.0.0", "back-end[logging]", "jax[cpu]"]
logging = ["tensorboard"]
Web_UI = ["fastapi"]
[tool.uv.sources]
Torch = { index = "cpu" }
"""


def test_a_project_is_read_with_its_extra(tmp_path: Path) -> None:
    found = read_project(write(tmp_path / "p", PROJECT), extra="training")
    assert (found.name, found.extras, found.sources, found.static) == ("Back_End", ("training",), ("torch",), True)
    assert [(one.name, one.by) for one in found.wanted] == [
        ("numpy", "Back_End"),
        ("torch", "Back_End[training]"),
        ("back-end", "Back_End[training]"),
        ("jax", "Back_End[training]"),
        ("tensorboard", "Back_End[logging]"),
    ]
    assert found.requirement_of("torch") == "torch>=2.0.0"
    assert found.requirement_of("nothing") is None
    text = PROJECT.replace("torch>=2.0.0", "torch==2.14.1+cpu; sys_platform == 'linux'")
    found = read_project(write(tmp_path / "q", text), extra="training")
    assert found.requirement_of("torch", markers=markers_for("x86_64-manylinux_2_28", python="3.12")) == "torch==2.14.1"
    assert found.requirement_of("torch", markers=markers_for("x86_64-pc-windows-msvc", python="3.12")) is None
    assert read_project(tmp_path / "p", extra="web-ui").extras == ("web-ui",)


def test_an_extra_it_does_not_have(tmp_path: Path) -> None:
    write(tmp_path / "p", PROJECT)
    with pytest.raises(UsageError, match="no extra 'trainig'") as caught:
        read_project(tmp_path / "p", extra="logging,trainig")
    assert "Web_UI, logging, training" in caught.value.next_step
    bare = write(tmp_path / "bare", '[project]\nname = "x"\nversion = "1"\n')
    with pytest.raises(UsageError) as caught:
        read_project(bare, extra="training")
    assert "drop --extra" in caught.value.next_step


def test_an_extra_of_a_script_is_left_to_the_resolver(tmp_path: Path) -> None:
    dynamic = write(tmp_path / "d", '[project]\nname = "x"\nversion = "1"\ndynamic = ["optional-dependencies"]\n')
    found = read_project(dynamic, extra="training")
    assert (found.extras, found.static) == (("training",), False)
    (tmp_path / "s").mkdir()
    (tmp_path / "s/setup.py").touch()
    assert read_project(tmp_path / "s", extra="training").name is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[project\n", "is not TOML"),
        ("\x00", "is not TOML"),
        ("[tool.ruff]\nline-length = 100\n", r"no \[project\] table"),
        ("[project]\nversion = '1'\n", "has no name"),
        ("[project]\nname = 'x'\nversion = '1'\ndependencies = ['torch >= ']\n", "is not a requirement"),
    ],
)
def test_a_project_file_that_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_project(write(tmp_path / "p", text), extra=None)


def test_a_folder_that_holds_no_project(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_project(tmp_path / "gone", extra=None)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        read_project(tmp_path / "file", extra=None)
    root = tmp_path / "root"
    write(root.parent / "root", "").joinpath("pyproject.toml").unlink()
    with pytest.raises(UsageError, match=r"neither pyproject.toml nor"):
        read_project(root, extra=None)
    write(root / "backend", PROJECT)
    with pytest.raises(UsageError) as caught:
        read_project(root, extra=None)
    assert str(root / "backend") in caught.value.next_step


HOSTILE = st.one_of(
    st.text(min_size=1, max_size=30),
    st.sampled_from(
        ["x\n-r /etc/passwd", "-e /etc", "$(id)", "x; id", "git+ext::sh -c id", "x @ file:///etc", "a b", "é"]
    ),
)


@given(name=HOSTILE, extra=HOSTILE)
def test_names_that_mean_more_than_a_name_are_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, extra: str
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    text = f"[project]\nname = {json.dumps(name)}\nversion = '1'\ndynamic = ['optional-dependencies']\n"
    try:
        found = read_project(write(folder, text), extra=extra)
    except UsageError:
        return
    assert re.fullmatch(r"[A-Za-z0-9._-]+", found.name or "")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", one) for one in found.extras)


@given(value=HOSTILE)
def test_values_that_would_be_options_are_refused(value: str) -> None:
    for given_value in (
        {"index_url": value},
        {"find_links": ("-" + value,)},
        {"python": "-" + value},
        {"requirements": (value + "\n-r x",)},
    ):
        with pytest.raises(UsageError):
            check_values(InstallRequest(decision=decision(), venv=Path("x"), **given_value))


@pytest.mark.parametrize(
    ("os", "arch", "glibc", "name"),
    [
        ("linux", "x86_64", "2.35", "x86_64-manylinux_2_35"),
        ("linux", "x86_64", "2.30", "x86_64-manylinux_2_28"),
        ("linux", "aarch64", "2.99", "aarch64-manylinux_2_40"),
        ("windows", "x86_64", None, "x86_64-pc-windows-msvc"),
    ],
)
def test_the_platform_of_a_machine(os: str, arch: str, glibc: str | None, name: str) -> None:
    assert platform_of(Machine(os=os, arch=arch, glibc=glibc)) == name


@pytest.mark.parametrize(
    ("os", "arch", "glibc"), [("macos", "aarch64", None), ("linux", "x86_64", None), ("linux", "riscv64", "2.35")]
)
def test_a_platform_without_builds(os: str, arch: str, glibc: str | None) -> None:
    with pytest.raises(UsageError):
        platform_of(Machine(os=os, arch=arch, glibc=glibc))


# --- uv's words: recorded from uv 0.13.9 on Linux x86-64, addresses shortened

RECORDED = {
    "contradiction": (
        "error: No solution found when resolving dependencies\n"
        "  cause: Because needsold<=1.0 depends on torch==2.0.1 and needsold>=1.1 depends on torch<2.1, we conclude "
        "that all versions of needsold depend on torch<2.1.\n"
        "         And because only torch>=2.1 is available and you require needsold, we can conclude that your "
        "requirements are unsatisfiable.\n",
        BlockedError,
        "needsold",
    ),
    "contradiction, as uv 0.12.10 draws it": (
        "  \u00d7 No solution found when resolving dependencies:\n"
        "  \u2570\u2500\u25b6 Because only torch<=2.15.0+cpu is available and you require torch>=99,\n"
        "      we can conclude that your requirements are unsatisfiable.\n",
        BlockedError,
        "Because only torch<=2.15.0+cpu is available",
    ),
    "refused": (
        "error: Request failed after 1 retry in 1.2s\n  cause: Failed to fetch: http://127.0.0.1:9/pypi/needsold/\n"
        "  cause: error sending request for url (http://127.0.0.1:9/pypi/needsold/)\n  cause: client error (Connect)\n"
        "  cause: tcp connect error\n  cause: Connection refused (os error 111)\n",
        WorkError,
        "127.0.0.1:9",
    ),
    "name": (
        "error: Failed to fetch: http://no.invalid/pypi/nosuch/\n"
        "  cause: error sending request for url (http://no.invalid/pypi/nosuch/)\n  cause: client error (Connect)\n"
        "  cause: dns error\n  cause: error resolving DNS\n"
        "  cause: failed to lookup address information: Name or service not known\n",
        WorkError,
        "its name cannot be resolved",
    ),
    "tls": (
        "error: Failed to fetch: https://127.0.0.1:8765/pypi/nosuch/\n"
        "  cause: error sending request for url (https://127.0.0.1:8765/pypi/nosuch/)\n"
        "  cause: received corrupt message of type InvalidContentType\n",
        WorkError,
        "no trusted TLS connection to https://127.0.0.1:8765/pypi/nosuch/",
    ),
    "login": (
        "error: No solution found when resolving dependencies\n  cause: Because torch was not found in the package "
        "registry and you require torch==2.14.1+cu126, we can conclude that your requirements are unsatisfiable.\n\n"
        "hint: An index URL (http://127.0.0.1:8766/pypi) could not be queried due to a lack of valid authentication "
        "credentials (401 Unauthorized)\n",
        WorkError,
        "refuses access (401)",
    ),
    "hash": (
        "error: Failed to download `transformers==4.50.0`\n  cause: Hash mismatch for `transformers==4.50.0`\n\n"
        "         Expected:\n           sha256:45478d\n\n         Computed:\n           sha256:35478d\n",
        RefusedError,
        "transformers==4.50.0",
    ),
    "python tag": (
        "error: No solution found when resolving dependencies\n  cause: Because onlyold==1.0 has no wheels with a "
        "matching Python ABI tag (e.g., `cp311`) and only onlyold==1.0 is available, we can conclude that all versions "
        "of onlyold cannot be used.\n         And because you require onlyold, we can conclude that your requirements "
        "are unsatisfiable.\n\nhint: You require CPython 3.11 (`cp311`), but we only found wheels for `onlyold` (v1.0) "
        "with the following Python ABI tag: `cp39`\n",
        BlockedError,
        "needs another Python. Because onlyold==1.0",
    ),
    "requires-python": (
        "error: No solution found when resolving dependencies\n  cause: Because the current Python version (3.11.7) "
        "does not satisfy Python>=3.13 and p2==1 depends on Python>=3.13, we can conclude that p2==1 cannot be used.\n"
        "         And because only p2==1 is available and you require p2, we can conclude that your requirements are "
        "unsatisfiable.\n",
        BlockedError,
        "needs another Python. Because the current",
    ),
    "build requirement": (
        "error: Failed to build `p2 @ file:///x/p2`\n  cause: Failed to resolve requirements from "
        "`build-system.requires`\n  cause: No solution found when resolving: `nosuchbackend`\n  cause: Because "
        "nosuchbackend was not found in the package registry and you require nosuchbackend, we can conclude that your "
        "requirements are unsatisfiable.\n",
        BlockedError,
        "does not build here. Failed to build `p2 @ file:///x/p2`: Failed to resolve requirements from "
        "`build-system.requires`: No solution found when resolving: `nosuchbackend`",
    ),
    "python download": (
        "error: Failed to download https://github.com/astral-sh/python-build-standalone/releases/download/x.tar.gz\n"
        "  cause: error sending request for url (https://github.com/x)\n  cause: dns error\n",
        WorkError,
        "UV_PYTHON_INSTALL_MIRROR",
    ),
    "python": (
        "error: No interpreter found for Python 9.9 in managed installations or search path\n",
        UsageError,
        "--python",
    ),
    "full": (
        "error: Failed to download `bigpkg==1.0`\n  cause: Failed to extract archive: bigpkg-1.0-py3-none-any.whl\n"
        "  cause: I/O operation failed during extraction\n  cause: failed to write to file `/c/.tmp/bigpkg.txt`: "
        "No space left on device (os error 28)\n",
        WorkError,
        "the disk is full",
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_each_failure_has_its_kind_and_a_next_step(name: str) -> None:
    text, kind, says = RECORDED[name]
    error = failure(text, step="resolve backend[training]", log="the.log")
    assert type(error) is kind
    assert says in str(error)
    assert error.message.startswith("Could not resolve backend[training]")
    assert "the.log" in error.next_step


@given(text=st.text())
def test_any_text_becomes_one_error_with_a_next_step(text: str) -> None:
    error = failure(text, step="do it", log="the.log")
    assert isinstance(error, OngpuError)
    assert error.message
    assert error.next_step
    assert "\n" not in error.message


@given(text=st.text(min_size=1))
def test_what_is_shown_is_short(text: str) -> None:
    lines = shortened("error: " + text * 40)
    assert len(lines) <= 7
    assert sum(map(len, lines)) < 6000


# --- secrets

SECRET = st.text("abcdefghijklmnopqrstuvwxyz0123456789%-._~!$&*+,;=", min_size=6, max_size=20).map("Zq9".__add__)


@given(secret=SECRET, host=st.sampled_from(["pypi.example.org", "10.0.0.1:8080"]))
def test_no_url_keeps_its_password(secret: str, host: str) -> None:
    url = f"https://user:{secret}@{host}/simple"
    texts = (
        url,
        f"error: cannot fetch {url}torch/ twice: {url}",
        f"`{url}`",
        f"password {secret} was wrong",
        f"({url})",
    )
    for text in texts:
        assert secret not in Redactor([url]).text(text)
    for text in (texts[0], texts[1], texts[2]):
        assert secret not in Redactor([]).text(text), "nor one that nobody announced"


@given(token=SECRET)
def test_tokens_in_queries_and_as_user_names(token: str) -> None:
    redactor = Redactor([f"https://{token}@example.org/simple"])
    assert token not in redactor.text(f"from https://{token}@example.org/simple/x and {token} again")
    text = Redactor([]).text("https://example.org/x.whl?X-Amz-Signature=abc123&Expires=9")
    assert text == "https://example.org/x.whl?X-Amz-Signature=****&Expires=****"


def test_ordinary_text_stays() -> None:
    text = "torch @ https://example.org/whl/cu126/torch-2.14.1%2Bcu126.whl#sha256=abc is at user@example.org"
    assert Redactor(["https://example.org/simple"]).text(text) == text


def test_only_harmless_variables_reach_uv() -> None:
    given = {
        "PATH": "/bin",
        "UV_INDEX": "x",
        "UV_OVERRIDE": "x",
        "UV_TORCH_BACKEND": "cpu",
        "UV_CACHE_DIR": "/c",
        "VIRTUAL_ENV": "/v",
        "HTTPS_PROXY": "http://p",
        "SSL_CERT_FILE": "/s",
    }
    assert set(clean_environment(given)) == {"PATH", "UV_CACHE_DIR", "HTTPS_PROXY", "SSL_CERT_FILE"}


# --- locks and graphs


def test_a_lock_that_is_not_one() -> None:
    for text in ("", "lock-version = '2.0'", "x ="):
        with pytest.raises(ValueError, match=r".+"):
            parse_lock(text)


def test_two_wheels_of_one_package_are_not_guessed_between() -> None:
    text = "lock-version = '1.0'\n[[packages]]\nname = 'a'\nversion = '1'\nwheels = [{url = 'x'}, {url = 'y'}]\n"
    (found,) = parse_lock(text)
    assert (found.location, found.sha256) == (None, None)


def test_of_several_wheels_the_one_uv_takes_is_left() -> None:
    """As uv 0.13.9 locks regex on Linux x86-64 for CPython 3.11, shortened."""
    text = """lock-version = '1.0'
[[packages]]
name = "regex"
version = "2026.11.15"
wheels = [
    { url = "https://e.org/regex-2026.11.15-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl" },
    { url = "https://e.org/regex-2026.11.15-cp311-cp311-manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl" },
    { url = "https://e.org/regex-2026.11.15-py3-none-any.whl" },
]
"""
    order = {"cp311-cp311-manylinux_2_28_x86_64": 0, "cp311-cp311-manylinux_2_17_x86_64": 1, "py3-none-any": 2}
    (found,) = parse_lock(narrowed(text, order))
    assert found.location is not None
    assert "2_28" in found.location
    (unknown,) = parse_lock(narrowed(text, {}))
    assert unknown.location is None


def test_the_tags_of_another_machine_in_their_order() -> None:
    order = tag_order((3, 12), free_threaded=False, platforms=platform_tags_of("aarch64-manylinux_2_28"))
    ranks = [
        order[f"cp312-cp312-{one}_aarch64"]
        for one in ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_5", "linux")
    ]
    assert ranks == sorted(ranks)
    assert "cp312-cp312-manylinux_2_31_aarch64" not in order
    assert "cp312-cp312-win_amd64" in tag_order(
        (3, 12), free_threaded=False, platforms=platform_tags_of("x86_64-pc-windows-msvc")
    )


def test_the_tags_of_a_free_threaded_python_are_its_own() -> None:
    plain, free = tag_order((3, 13), free_threaded=False), tag_order((3, 13), free_threaded=True)
    assert any(tag.startswith("cp313-cp313-") for tag in plain)
    assert any(tag.startswith("cp313-cp313t-") for tag in free)
    assert not any(tag.startswith("cp313-cp313-") for tag in free)


def test_who_wants_what() -> None:
    graph = wanted_by_graph(
        "jax==0.9\n    # via\n    #   -r requirements.in\n    #   Flax\n    #   backend (file:///x)\n"
        "jaxlib==0.9 \\\n    --hash=sha256:00\n    # via jax\ntorch @ https://example.org/torch.whl\n    # via -r in\n"
    )
    assert graph == {"jax": ("Flax", "backend"), "jaxlib": ("jax",), "torch": ()}
    both = merged({"jax": ("backend[training] (jax[cpu])",)}, {"jax": ("backend", "flax")})
    assert both == {"jax": ("backend[training] (jax[cpu])", "flax")}


def test_installed_metadata_knows_who_wants_what() -> None:
    requires = ("jax; extra == 'tpu'", "flax", "libtpu; python_version < '3.0'", "not a requirement !!")
    package = Package(name="trainer", version="1", location="/x", requires=requires)
    assert installed_graph([package], markers={"python_version": "3.12"}) == {"flax": ("trainer",)}


INDEX = "https://download.pytorch.org/whl/cu126"

# --- the judgment over what was read


def decision(**more: object) -> Decision:
    made = Decision(
        decision=DecisionKind.PREBUILT,
        torch="2.14.1",
        cuda_tag="cu126",
        index_url=None,
        command=(),
        fit=(),
        axes=(),
        cause=None,
        alternatives=(),
        assumptions=(),
        lost=(),
        next_step="x",
    )
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


TORCH = InstalledTorch(
    version="2.14.1+cu126",
    cuda_tag="cu126",
    runtime=RuntimeVersion(major=12, minor=6),
    cpu_only=False,
    path="/e/torch",
)
GOOD = Environment(
    python=PythonInstall(path="/e/bin/python", version="3.12.3"),
    prefix="/e",
    site_packages=("/e/lib",),
    packages=(Package(name="numpy", version="2.4.6", location="/e/lib"),),
    torch=TORCH,
)
NUMPY = Installed(name="NumPy", version="2.4.6", url=None, sha256=None)


def test_what_was_decided_is_proven() -> None:
    assert judge(GOOD, decision=decision(), installed=[NUMPY]).outcome is Outcome.PROVEN


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (dataclasses.replace(GOOD, torch=None), Cause.PYTHON_ENV),
        (dataclasses.replace(GOOD, ran=False, problems=("no",)), Cause.PYTHON_ENV),
        (dataclasses.replace(GOOD, packages=()), Cause.PYTHON_ENV),
        (dataclasses.replace(GOOD, problems=("two installs overlap",)), Cause.PYTHON_ENV),
        (
            dataclasses.replace(GOOD, packages=(Package(name="numpy", version="1.0", location="/e/lib"),)),
            Cause.PYTHON_ENV,
        ),
        (dataclasses.replace(GOOD, torch=dataclasses.replace(TORCH, version="2.13.0+cu126")), Cause.PYTHON_ENV),
        (dataclasses.replace(GOOD, torch=dataclasses.replace(TORCH, cuda_tag="cu130")), Cause.CUDA_VERSION_MISMATCH),
        (dataclasses.replace(GOOD, torch=dataclasses.replace(TORCH, cpu_only=True)), Cause.CPU_ONLY_TORCH),
        (dataclasses.replace(GOOD, torch=dataclasses.replace(TORCH, cuda_tag=None)), Cause.CUDA_VERSION_MISMATCH),
    ],
)
def test_anything_else_is_refuted_with_its_cause(found: Environment, cause: Cause) -> None:
    judgment = judge(found, decision=decision(), installed=[NUMPY])
    assert (judgment.outcome, judgment.cause) == (Outcome.REFUTED, cause)
    assert judgment.reason


def test_only_a_prebuilt_cuda_build_is_installed() -> None:
    check_decision(InstallRequest(decision=decision(), venv=Path("x")))
    for wrong, cause in (
        ({"decision": DecisionKind.BLOCKED, "cause": Cause.DRIVER_TOO_OLD}, "driver-too-old"),
        ({"decision": DecisionKind.SOURCE}, "undetermined"),
        ({"cuda_tag": "cpu"}, "cpu-only-torch"),
    ):
        with pytest.raises(BlockedError) as caught:
            check_decision(InstallRequest(decision=decision(**wrong), venv=Path("x")))
        assert caught.value.cause == cause


def test_activation_is_told_for_each_system() -> None:
    told = [one.command for one in activation_of(Path(".venv-gpu"))]
    assert told == [
        "source .venv-gpu/bin/activate",
        ".venv-gpu\\Scripts\\Activate.ps1",
        ".venv-gpu\\Scripts\\activate.bat",
    ]
    spaced = [one.command for one in activation_of(Path("my env's"))]
    assert spaced[0] == "source 'my env'\\''s/bin/activate'"
    assert spaced[1] == "& 'my env''s\\Scripts\\Activate.ps1'"


def test_the_documented_policy_is_the_policy() -> None:
    page = (Path(__file__).parents[2] / "docs/install.md").read_text("utf-8")
    table = page.partition("<!-- policy:")[2].partition("<!-- end -->")[0]
    rows = [line.strip("|\n ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows == [[", ".join(row.names), row.reason, row.source] for row in policy()]


def test_the_documented_lines_are_the_lines() -> None:
    docs = Path(__file__).parents[2] / "docs"
    made = {
        "uv-projects": uv_project_lines(decision(index_url=INDEX), excluded=("flax", "jax", "jaxlib")),
        "conda-pixi": pixi_lines(decision(index_url=INDEX)),
        "containers": dockerfile_lines(decision(index_url=INDEX), python="3.12", project="backend", extra="training"),
        "notebooks": notebook_lines(decision(index_url=INDEX)),
    }
    for name, text in made.items():
        page = (docs / f"install-{name}.md").read_text("utf-8")
        assert [line for line in text.splitlines() if line not in page] == [], name
