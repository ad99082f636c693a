"""A target environment: which Python is meant, and what its environment holds.

The environment of the tool is never the environment of the user. The target's own Python is asked, in a child
with a limit in time; where it cannot run, its files are read instead and the answer says so.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from ongpu.domain.arch import RuntimeVersion
from ongpu.domain.environment import Ahead, Environment, InstalledTorch, Package
from ongpu.domain.machine import PythonInstall
from ongpu.errors import DoorError, UsageError
from ongpu.machine.process import Processes

_MARK: Final = b"ongpu-environment: "
# A cold network file system with a thousand packages takes seconds; a Python that hangs must not hang us.
_TIMEOUT_S: Final = 60.0
_FOLDERS: Final = (".venv-gpu", ".venv")


def choose_python(
    explicit: str | None, *, cwd: Path, variables: Mapping[str, str], own_prefix: Path | None = None
) -> Path:
    """The Python of the environment to look at.

    :param explicit: ``--python``: an interpreter, the folder of an environment, or a command on ``PATH``.
    :param variables: the environment variables of the caller (``VIRTUAL_ENV``, ``CONDA_PREFIX``, ``PATH``).
    :param own_prefix: the environment ongpu runs in (default: this one), which is never chosen unless named.
    :returns: the interpreter's path, absolute, links kept (a virtual environment's Python *is* a link).
    :raises UsageError: none can be found, or what was named has no Python.
    """
    if explicit is not None:
        return _named(explicit, cwd=cwd, variables=variables)
    own = (own_prefix or Path(sys.prefix)).resolve()
    skipped = ""
    for prefix, what in _candidates(cwd, variables):
        if not prefix.is_dir():
            if what in _FOLDERS:
                continue
            raise UsageError(
                f"{what} names {prefix}, which is not a folder.",
                next_step="Deactivate it, or name the Python to look at with --python PATH.",
            )
        if prefix.resolve() == own:
            skipped = f" ({prefix} is ongpu's own environment, which is looked at only when it is named)"
            continue
        python = interpreter_of(prefix)
        if python is not None:
            return python
    raise UsageError(
        f"No Python environment to look at: none is active, and {cwd} has neither .venv-gpu nor .venv{skipped}.",
        next_step="Type --python PATH with the Python of the environment you train in, or make one: ongpu install.",
    )


def _candidates(cwd: Path, variables: Mapping[str, str]) -> Iterable[tuple[Path, str]]:
    # conda's base is active in every shell of its users, so it says little about which one is meant: last.
    conda_base = variables.get("CONDA_DEFAULT_ENV") in {"base", "root"}
    if variables.get("VIRTUAL_ENV"):
        yield Path(variables["VIRTUAL_ENV"]), "VIRTUAL_ENV"
    if variables.get("CONDA_PREFIX") and not conda_base:
        yield Path(variables["CONDA_PREFIX"]), "CONDA_PREFIX"
    for name in _FOLDERS:
        yield cwd / name, name
    if variables.get("CONDA_PREFIX") and conda_base:
        yield Path(variables["CONDA_PREFIX"]), "CONDA_PREFIX"


def interpreter_of(prefix: Path) -> Path | None:
    """The interpreter of an environment folder (POSIX, Windows, conda on Windows), or ``None``."""
    for tail in ("bin/python", "bin/python3", "Scripts/python.exe", "python.exe"):
        path = prefix / tail
        if path.is_file():
            return path
    return None


def _named(explicit: str, *, cwd: Path, variables: Mapping[str, str]) -> Path:
    path = cwd / Path(explicit).expanduser()
    if path.is_dir():
        inside = interpreter_of(path)
        if inside is None:
            raise UsageError(
                f"The folder {explicit!r} is not a Python environment (no bin/python or Scripts\\python.exe).",
                next_step="Name the interpreter itself, for example --python .venv-gpu/bin/python.",
            )
        return inside
    if path.is_file():
        return path
    if "/" not in explicit and "\\" not in explicit:
        found = shutil.which(explicit, path=variables.get("PATH", ""))
        if found is not None:
            return Path(found)
    raise UsageError(
        f"There is no Python at {explicit!r}.",
        next_step="Give the path of an interpreter or of an environment's folder, for example --python .venv-gpu.",
    )


def read_environment(python: Path, *, processes: Processes, timeout_s: float = _TIMEOUT_S) -> Environment:
    """Read what the environment of ``python`` holds, without importing anything of it.

    Never raises for a broken environment: ``problems`` names what is wrong, and where that Python cannot run
    its files are read instead (``ran`` is then false).
    """
    script = Path(__file__).parent / "payload" / "read_environment.py"
    argv = (str(python), "-I", "-B", "-X", "utf8", str(script))
    try:
        done = processes.run(argv, timeout_s=timeout_s)
    except DoorError as error:
        return read_files(python, reason=f"{python} cannot be started: {error.reason}")
    if done.timed_out:
        return read_files(python, reason=f"{python} did not answer within {timeout_s:g} s")
    lines = [one for one in done.stdout.splitlines() if one.startswith(_MARK)]
    if done.status != 0 or not lines:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        return read_files(python, reason=f"{python} ended with status {done.status}: {last[:300]}")
    return environment_from_answer(python, lines[-1].removeprefix(_MARK))


def environment_from_answer(python: Path, answer: bytes) -> Environment:
    """The payload's answer as a value. Raises :class:`ValueError` where it is not its JSON."""
    said: dict[str, Any] = json.loads(answer)
    problems = [str(one) for one in said["problems"]]
    packages = tuple(_package(row) for row in said["packages"])
    torch = _torch(said["torch"], problems)
    prefix = Path(str(said["prefix"]))
    problems += _torch_problems(packages, torch) + _conda_problems(prefix, packages)
    virtual = said["prefix"] != said["base_prefix"]
    return Environment(
        python=PythonInstall(
            path=str(python),
            version=str(said["version"]),
            free_threaded=bool(said["free_threaded"]),
            environment=str(said["prefix"]) if virtual else None,
        ),
        prefix=str(said["prefix"]),
        site_packages=tuple(said["site_packages"]),
        packages=packages,
        torch=torch,
        problems=tuple(problems),
        virtual=virtual,
        kind=_kind(prefix, virtual=virtual),
        added=tuple(said["added"]),
        ahead=_ahead(said["ahead"], packages) if said["ahead"]["folders"] else None,
    )


def _torch(said: Mapping[str, Any] | None, problems: list[str]) -> InstalledTorch | None:
    if said is None:
        return None
    text = said["version_text"]
    torch = None if text is None else torch_from_version_text(text, path=str(said["path"]))
    if torch is None:
        problems.append(f"torch in {said['path']} does not say which version it is")
    return torch


def _ahead(said: Mapping[str, Any], installed: tuple[Package, ...]) -> Ahead:
    problems = [str(one) for one in said["problems"]]
    torch = _torch(said["torch"], problems)
    packages = tuple(_package(row) for row in said["packages"])
    names = {one.name for one in packages}
    return Ahead(
        folders=tuple(said["folders"]),
        packages=packages,
        torch=torch,
        problems=tuple(problems),
        hides=tuple((one.name, one.version) for one in installed if one.name in names),
    )


def _package(row: Mapping[str, Any]) -> Package:
    direct = row["direct_url"] if isinstance(row["direct_url"], dict) else {}
    url = direct.get("url")
    folder = direct.get("dir_info")
    return Package(
        name=str(row["name"]),
        version=str(row["version"]),
        location=str(row["location"]),
        direct_url=without_credentials(url) if isinstance(url, str) else None,
        editable=isinstance(folder, dict) and folder.get("editable") is True,
        requires=tuple(str(one) for one in row["requires"]),
        installer=None if row["installer"] is None else str(row["installer"]),
    )


def without_credentials(url: str) -> str:
    """``url`` without user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _torch_problems(packages: tuple[Package, ...], torch: InstalledTorch | None) -> list[str]:
    listed = next((one for one in packages if one.name == "torch"), None)
    if listed is not None and torch is None:
        return [f"torch {listed.version} is listed as installed, but its files are not there"]
    if listed is not None and torch is not None and listed.version.partition("+")[0] != torch.public_version:
        return [f"torch is listed as {listed.version}, but its files say {torch.version}: two installs overlap"]
    return []


def _kind(prefix: Path, *, virtual: bool) -> str:
    if (prefix / "conda-meta").is_dir():
        return "pixi" if ".pixi" in prefix.parts else "conda"
    return "venv" if virtual else "system"


def _conda_problems(prefix: Path, packages: tuple[Package, ...]) -> list[str]:
    """A torch that pip or uv put over conda's own: conda knows nothing of it, and its next change breaks it."""
    torch = next((one for one in packages if one.name == "torch"), None)
    if torch is None or torch.installer in {None, "conda"}:
        return []
    if any((prefix / "conda-meta").glob("pytorch-[0-9]*.json")) or any((prefix / "conda-meta").glob("libtorch-*.json")):
        who = f"put by {torch.installer} over the one conda installed"
        return [f"torch {torch.version} was {who}: two installers keep one folder"]
    return []


# torch/version.py of a wheel (2.13.0), shortened:
#   from typing import Optional
#   __all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'xpu']
#   __version__ = '2.13.0+cpu'
#   cuda: Optional[str] = None
#   hip: Optional[str] = None
_ASSIGNED: Final = re.compile(r"^(?P<name>__version__|cuda|hip|xpu)\s*(?::[^=]+)?=\s*(?P<value>.+?)\s*$", re.MULTILINE)
_QUOTED: Final = re.compile(r"""(?:\w+\()?(['"])(?P<text>[^'"]*)\1\)?\Z""")


def torch_from_version_text(text: str, *, path: str) -> InstalledTorch | None:
    """What a ``torch/version.py`` says; ``None`` where it does not give a version."""
    said: dict[str, str | None] = {}
    for found in _ASSIGNED.finditer(text):
        quoted = _QUOTED.match(found["value"])
        said[found["name"]] = quoted["text"] if quoted else None
    version = said.get("__version__")
    if not version:
        return None
    runtime = None
    cuda = said.get("cuda")
    if cuda is not None:
        try:
            runtime = RuntimeVersion.parse(cuda)
        except ValueError:
            return None
    label = version.partition("+")[2].partition(".")[0]
    tag: str | None = f"cu{runtime.major}{runtime.minor}" if runtime else None
    if re.fullmatch(r"cu\d{2,3}|cpu", label):
        tag = label
    elif runtime is None and not said.get("hip") and not said.get("xpu"):
        tag = "cpu"
    return InstalledTorch(
        version=version,
        cuda_tag=tag,
        runtime=runtime,
        cpu_only=runtime is None and not said.get("hip") and not said.get("xpu"),
        path=path,
        hip=said.get("hip"),
        xpu=said.get("xpu"),
    )


def read_files(python: Path, *, reason: str) -> Environment:
    """Read an environment from its files alone, where its Python cannot run.

    :param reason: why it could not; becomes the first problem.
    """
    from importlib.metadata import distributions  # noqa: PLC0415 - 10 ms, for a Python that cannot run

    prefix = python.parent.parent if python.parent.name in {"bin", "Scripts"} else python.parent
    folders = [*sorted(prefix.glob("lib*/python3*/site-packages")), *sorted(prefix.glob("Lib/site-packages"))]
    folders = [one for one in dict.fromkeys(folder.resolve() for folder in folders) if one.is_dir()]
    rows: dict[str, Package] = {}
    problems = [reason]
    for folder in folders:
        for found in distributions(path=[str(folder)]):
            try:
                name, version = found.metadata["Name"], found.version
                requires = tuple(found.requires or ())
                installer = (found.read_text("INSTALLER") or "").strip() or None
            except (OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"a package in {folder} cannot be read: {error}")
                continue
            if not name or not version:
                problems.append(f"a package in {folder} has no name or no version")
                continue
            key = re.sub(r"[-_.]+", "-", name).lower()
            one = Package(name=key, version=version, location=str(folder), requires=requires, installer=installer)
            rows.setdefault(key, one)
    torch = None
    for folder in folders:
        text = folder / "torch" / "version.py"
        if text.is_file():
            torch = torch_from_version_text(text.read_text("utf-8", "replace"), path=str(text.parent))
            break
    packages = tuple(sorted(rows.values(), key=lambda one: one.name))
    version = _version_from_files(prefix, folders)
    virtual = (prefix / "pyvenv.cfg").is_file()
    return Environment(
        python=PythonInstall(path=str(python), version=version, environment=str(prefix) if virtual else None),
        prefix=str(prefix),
        site_packages=tuple(str(one) for one in folders),
        packages=packages,
        torch=torch,
        problems=(*problems, *_torch_problems(packages, torch)),
        virtual=virtual,
        ran=False,
        kind=_kind(prefix, virtual=virtual),
    )


def _version_from_files(prefix: Path, folders: list[Path]) -> str:
    """``3.12.3`` from pyvenv.cfg, else ``3.12`` from the folder's name, else ``unknown``."""
    config = prefix / "pyvenv.cfg"
    if config.is_file():
        found = re.search(r"(?im)^version(?:_info)?\s*=\s*(\d+\.\d+(?:\.\d+)?)", config.read_text("utf-8", "replace"))
        if found:
            return found[1]
    for folder in folders:
        named = re.fullmatch(r"python(3\.\d+)t?", folder.parent.name)
        if named:
            return named[1]
    return "unknown"
