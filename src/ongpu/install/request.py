"""What is asked of an install, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ongpu.domain.build import Decision
from ongpu.domain.environment import Environment
from ongpu.domain.verdict import Cause, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """One fresh environment.

    :param decision: the planner's; its torch, CUDA tag and index are what is installed, and nothing else.
    :param venv: the environment's folder; must not exist, unless a matching complete one can be used again.
    :param project: the folder of the user's project, or ``None`` for torch alone.
    :param extra: names of the project's extras, separated by commas.
    :param requirements: further requirements (PEP 508) to resolve with the project.
    :param index_url: where every package but torch's family comes from; ``None`` is PyPI, or what
        ``UV_DEFAULT_INDEX`` names.
    :param torch_index_url: a mirror to take torch's family from instead of ``decision.index_url``.
    :param find_links: folders or pages of wheels, besides the index.
    :param offline: use no index at all, only ``find_links``.
    :param allow: names the policy would exclude, wanted nevertheless.
    :param python: version (``3.12``) or path of the interpreter; ``None`` is the one that runs ongpu.
    :param build: whether packages without a wheel may be built from source here.
    :param platform: uv's name of another machine's platform (:func:`ongpu.install.target.platform_of`), to
        resolve for it; with ``dry_run`` only, and ``python`` must be a version.
    :param lock_file: where to write what was resolved as ``pylock.toml`` (PEP 751), secrets removed.
    :param replace: the user's word that a complete environment in the way may go.
    """

    decision: Decision
    venv: Path
    project: Path | None = None
    extra: str | None = None
    editable: bool = True
    dry_run: bool = False
    requirements: tuple[str, ...] = ()
    index_url: str | None = None
    torch_index_url: str | None = None
    find_links: tuple[str, ...] = ()
    offline: bool = False
    allow: tuple[str, ...] = ()
    python: str | None = None
    build: bool = True
    replace: bool = False
    platform: str | None = None
    lock_file: Path | None = None
    resolve_timeout_s: float = 900.0
    install_timeout_s: float = 4 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One package of the resolution: exactly this file. ``sha256`` is ``None`` where the index gave none.

    ``url`` carries no secrets. ``size_bytes`` is the download's, where the index says it. ``built`` is true for
    what was built here from source, the project itself included.
    """

    name: str
    version: str | None
    url: str | None
    sha256: str | None
    size_bytes: int | None = None
    built: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something asked for that was not done as asked.

    ``action`` is ``excluded``, ``allowed``, ``pinned``, ``source-ignored`` or ``variant-replaced``.
    """

    name: str
    wanted_by: tuple[str, ...]
    action: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """What to type to use the environment."""

    where: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallReport:
    """What an install did.

    ``outcome`` is proven where the environment was read afterwards and holds what was decided; refuted, with
    ``cause``, where it does not (it was then not put into place); unknown for a dry run. ``commands`` are the
    command lines run, secrets removed. ``log`` holds the installer's whole output. ``notes`` are sentences a
    person should read.
    """

    outcome: Outcome
    reason: str
    venv: str
    python: str | None
    dry_run: bool
    reused: bool
    torch_index: str | None
    default_index: str | None
    installed: tuple[Installed, ...]
    excluded: tuple[Change, ...]
    overridden: tuple[Change, ...]
    commands: tuple[tuple[str, ...], ...]
    log: str | None
    activation: tuple[Activation, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    cause: Cause | None = None
    environment: Environment | None = None
    download_bytes: int | None = None
    lock_sha256: str | None = None
    seconds: float = 0.0


def activation_of(venv: Path) -> tuple[Activation, ...]:
    """How each shell activates ``venv``."""
    posix = str(venv / "bin" / "activate")
    # An absolute path of this system means nothing on Windows.
    backslashed = venv.name if str(venv).startswith("/") else str(venv).replace("/", "\\")
    return (
        Activation(where="Linux (bash, zsh)", command=f"source {_quoted(posix)}"),
        Activation(where="Windows (PowerShell)", command=_powershell(f"{backslashed}\\Scripts\\Activate.ps1")),
        Activation(where="Windows (cmd)", command=_double(f"{backslashed}\\Scripts\\activate.bat")),
    )


def _quoted(path: str) -> str:
    if all(one.isalnum() or one in "/._-+" for one in path):
        return path
    return "'" + path.replace("'", "'\\''") + "'"


def _powershell(path: str) -> str:
    if all(one.isalnum() or one in "\\._-:" for one in path):
        return path
    return "& '" + path.replace("'", "''") + "'"


def _double(path: str) -> str:
    return f'"{path}"' if " " in path else path
