"""Resolution through uv: torch's family from its own index first, then everything with those files pinned.

One index for each package, by construction: the family (torch, torchvision, torchaudio, triton) is resolved with
torch's index in front, and the exact files found are pinned by URL and SHA-256, as requirements or constraints, in a
second resolution that knows the default index only. A dependency that asks for another torch cannot swap it: the
resolver finds a contradiction and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from ongpu.domain.verdict import Cause
from ongpu.errors import BlockedError, OngpuError, RefusedError, WorkError
from ongpu.install.lock import Locked, narrowed, parse_lock, tag_order
from ongpu.install.place import version_of
from ongpu.install.policy import PolicyRow
from ongpu.install.project import Project
from ongpu.install.request import Change, InstallRequest
from ongpu.install.target import markers_for, platform_tags_of
from ongpu.install.uv import Uv
from ongpu.install.variant import replaced_variants

PYPI: Final = "https://pypi.org/simple"
COMPANIONS: Final = ("torchaudio", "torchvision")
_FAMILY: Final = re.compile(r"(torch|torchvision|torchaudio|triton|triton-windows|pytorch-triton(-[a-z0-9]+)?)\Z")
# A second look without exclusions only fills the report; it must not hold up the install.
_SHADOW_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What will be installed.

    ``lock_file`` is what uv installs from; ``annotated`` is ``None`` where the resolution without exclusions
    failed, for the reason in ``shadow_problem``.
    """

    locked: tuple[Locked, ...]
    family: tuple[Locked, ...]
    lock_file: Path
    build_constraints: Path
    annotated: str | None
    shadow_problem: str | None
    replaced: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexes:
    """Where packages come from: ``torch`` is ``None`` where torch comes from the default index."""

    default: str
    torch: str | None

    def environment(self, *, with_torch: bool) -> dict[str, str]:
        """As variables of uv's process: a command line, unlike them, is readable by every user."""
        variables = {"UV_DEFAULT_INDEX": self.default}
        if with_torch and self.torch is not None:
            variables["UV_INDEX"] = self.torch
        return variables


def indexes_of(request: InstallRequest, environment: Mapping[str, str]) -> Indexes:
    """The two indexes of a request."""
    default = request.index_url or environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL") or PYPI
    return Indexes(default=default, torch=request.torch_index_url or request.decision.index_url)


def sources_of(request: InstallRequest) -> tuple[str, ...]:
    """How uv is told where to look, besides the index URLs (which go in by variables)."""
    # uv runs in a folder of ours: a relative folder is the caller's.
    links = tuple(link if "://" in link else str(Path(link).resolve()) for link in request.find_links)
    words = tuple(word for link in links for word in ("--find-links", link))
    # An index is tried for a name only where the ones before it do not have that name at all.
    return ("--no-index", *words) if request.offline else ("--index-strategy", "first-index", *words)


def companions_of(request: InstallRequest) -> tuple[str, ...]:
    """The pins of torchvision and torchaudio that the decision's command carries."""
    return tuple(
        sorted(one for one in request.decision.command if one.partition("==")[0] in COMPANIONS and "==" in one)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """One resolution: the request, the project as read, and the folder for uv's input files.

    :param log_name: what the log is called in messages.
    """

    request: InstallRequest
    project: Project | None
    indexes: Indexes
    uv: Uv
    python: Path
    work: Path
    rows: tuple[PolicyRow, ...]
    allowed: frozenset[str]
    log_name: str

    def resolve(self) -> Resolution:
        """Resolve everything. Raises what :meth:`ongpu.install.uv.Uv.run` raises, and refuses a wrong torch."""
        pins = companions_of(self.request)
        family = self._family(pins)
        locked = self._everything(family, wanted=pins)
        loose = tuple(one.name for one in locked if one.name in COMPANIONS and one.kind != "archive")
        if loose and self.indexes.torch is not None:
            # Somebody wants a companion that the decision did not name: it must come from torch's index as well.
            family = self._family((*pins, *loose))
            locked = self._everything(family, wanted=pins)
        self._check_pinned(locked, family)
        annotated, problem = self._shadow()
        return Resolution(
            locked=locked,
            family=family,
            lock_file=self._lock("everything"),
            build_constraints=self.work / "constraints.in",
            annotated=annotated,
            shadow_problem=problem,
            replaced=self._replaced(family),
        )

    def _lock(self, name: str) -> Path:
        return self.work / f"pylock.{name}.toml"

    def _environment(self, *, with_torch: bool) -> dict[str, str]:
        return {} if self.request.offline else self.indexes.environment(with_torch=with_torch)

    def _family(self, companions: Iterable[str]) -> tuple[Locked, ...]:
        decision = self.request.decision
        public = str(decision.torch).partition("+")[0]
        own_index = decision.index_url is not None
        # A mirror that mixes PyPI with torch's own index holds 2.15.0+cpu beside 2.15.0; it satisfies ==2.15.0
        # too, and sorts above it.
        torch = f"torch=={public}+{decision.cuda_tag}" if own_index else f"torch=={public},!={public}+cpu"
        labelled = [
            f"{one}+{decision.cuda_tag}" if own_index and "==" in one and "+" not in one else one for one in companions
        ]
        requirements = self.work / "family.in"
        requirements.write_text("\n".join([torch, *labelled]) + "\n", "utf-8")
        lock = self._lock("family")
        lock.unlink(missing_ok=True)
        self.uv.run(
            *("pip", "compile", str(requirements), "--python", str(self.python), *sources_of(self.request)),
            *("--no-build", "--format", "pylock.toml", "-o", str(lock), *self._target()),
            step=f"resolve {torch}",
            timeout_s=self.request.resolve_timeout_s,
            log_name=self.log_name,
            variables=self._environment(with_torch=True),
            show=False,
        )
        family = tuple(one for one in self._narrowed(lock, ()) if _FAMILY.match(one.name))
        for one in family:
            self._check_variant(one)
        return family

    def _check_variant(self, one: Locked) -> None:
        """The index may hold several variants under one version: only the decided one is acceptable."""
        if not one.name.startswith("torch"):
            return
        tag = str(self.request.decision.cuda_tag)
        plain_is_right = self.request.decision.index_url is None
        if one.label == tag or (plain_is_right and one.label == "") or (one.name != "torch" and one.label == ""):
            return
        raise BlockedError(
            f"{one.name} {one.version} is what the index gives, not a build for {tag}.",
            next_step="Name an index that carries that build, or plan again with the versions it has.",
            cause=Cause.CPU_ONLY_TORCH.value if one.label == "cpu" else Cause.CUDA_VERSION_MISMATCH.value,
            lines=(f"{one.name}=={one.version}",),
        )

    def _everything(self, family: tuple[Locked, ...], *, wanted: tuple[str, ...]) -> tuple[Locked, ...]:
        self._write_inputs(family, wanted=wanted)
        lock = self._lock("everything")
        lock.unlink(missing_ok=True)
        excludes = self.work / "excludes.in"
        names = sorted(name for row in self.rows for name in row.names if name not in self.allowed)
        excludes.write_text("".join(f"{name}\n" for name in names), "utf-8")
        build = () if self.request.build else ("--no-build",)
        self.uv.run(
            *("pip", "compile", str(self.work / "requirements.in"), *self._common(), *build),
            *("--excludes", str(excludes), "--format", "pylock.toml", "-o", str(lock)),
            step=f"resolve {self._what()} with torch {self.request.decision.torch}",
            timeout_s=self.request.resolve_timeout_s,
            log_name=self.log_name,
            variables=self._environment(with_torch=False),
            show=False,
        )
        return self._narrowed(lock, family)

    def _target(self) -> tuple[str, ...]:
        if self.request.platform is None:
            return ()
        return ("--python-platform", self.request.platform, "--python-version", str(self.request.python))

    def _tag_order(self) -> dict[str, int]:
        platform = self.request.platform
        if platform is not None:
            major, minor = str(self.request.python).split(".")[:2]
            return tag_order((int(major), int(minor)), free_threaded=False, platforms=platform_tags_of(platform))
        version, free_threaded = version_of(self.python.parent.parent)
        return {} if version is None else tag_order(version, free_threaded=free_threaded)

    def _narrowed(self, lock: Path, family: tuple[Locked, ...]) -> tuple[Locked, ...]:
        order = self._tag_order()
        lock.write_text(narrowed(lock.read_text("utf-8"), order), "utf-8")
        # A file asked for by URL is locked without its size, which the family's resolution knew.
        sizes = {one.name: one.size_bytes for one in family}
        return tuple(
            replace(one, size_bytes=sizes.get(one.name)) if one.size_bytes is None else one for one in _parsed(lock)
        )

    def _common(self) -> tuple[str, ...]:
        constraints = str(self.work / "constraints.in")
        ignored = tuple(word for name in ("torch", *COMPANIONS, "triton") for word in ("--no-sources-package", name))
        return (
            *("--python", str(self.python), *sources_of(self.request), *self._target(), *ignored),
            *("--constraints", constraints, "--build-constraints", constraints),
            *("--overrides", str(self.work / "overrides.in")),
        )

    def _what(self) -> str:
        if self.project is None:
            return "the requirements" if self.request.requirements else "its dependencies"
        extras = f"[{','.join(self.project.extras)}]" if self.project.extras else ""
        return f"{self.project.name or self.project.folder.name}{extras}"

    def _replaced(self, family: tuple[Locked, ...]) -> tuple[Change, ...]:
        markers = markers_for(self.request.platform, python=self.request.python)
        return replaced_variants(self.project, self.request.requirements, family=family, markers=markers)

    def _write_inputs(self, family: tuple[Locked, ...], *, wanted: tuple[str, ...]) -> None:
        pins = {one.name: f"{one.name} @ {self._pinned_url(one)}" for one in family}
        direct = ["torch", *(one.partition("==")[0] for one in wanted)]
        lines = [pins[name] for name in direct if name in pins]
        lines += self.request.requirements
        (self.work / "constraints.in").write_text("".join(f"{one}\n" for one in pins.values()), "utf-8")
        # An override hides every requirement on that name from the resolver; that they hold nevertheless is
        # checked on what was installed (judge).
        replaced = {one.name for one in self._replaced(family)}
        (self.work / "overrides.in").write_text("".join(f"{pins[name]}\n" for name in sorted(replaced)), "utf-8")
        for file, editable in (("requirements.in", self.request.editable), ("shadow.in", True)):
            project = [self._project_line(editable=editable)] if self.project else []
            (self.work / file).write_text("".join(f"{one}\n" for one in (*lines, *project)), "utf-8")

    def _project_line(self, *, editable: bool) -> str:
        assert self.project is not None
        extras = f"[{','.join(self.project.extras)}]" if self.project.extras else ""
        # A URL, so that no character of the folder's name means anything to the requirements format.
        url = self.project.folder.as_uri()
        line = f"{self.project.name}{extras} @ {url}" if self.project.name else f"{url}{extras}"
        return f"-e {line}" if editable else line

    def _pinned_url(self, one: Locked) -> str:
        if one.location is None:
            raise WorkError(
                f"The index does not say which file {one.name} {one.version} is.",
                next_step="Name an index with one wheel for this platform, or install that wheel with --find-links.",
            )
        if any(character.isspace() or not character.isprintable() for character in one.location):
            raise RefusedError(
                f"The index gives {one.name} an address that is none.",
                next_step="Do not use that index until its owner explains; nothing was installed.",
            )
        url = one.location if "://" in one.location else Path(one.location).resolve().as_uri()
        parts = urlsplit(url)
        index = urlsplit(self.indexes.torch or self.indexes.default)
        if index.username and "@" not in parts.netloc and parts.hostname == index.hostname and not self.request.offline:
            url = urlunsplit(parts._replace(netloc=f"{index.netloc.rpartition('@')[0]}@{parts.netloc}"))
        fragment = f"#sha256={one.sha256}" if one.sha256 else ""
        return url.partition("#")[0] + fragment

    def _check_pinned(self, locked: tuple[Locked, ...], family: tuple[Locked, ...]) -> None:
        """Believe nothing: what was pinned must be what was locked."""
        found = {one.name: one for one in locked}
        for one in family:
            got = found.get(one.name)
            if got is not None and (got.version, got.sha256) != (one.version, one.sha256):
                raise RefusedError(
                    f"{one.name} {one.version} ({one.sha256}) was pinned, but {got.version} ({got.sha256}) was locked.",
                    next_step=f"Report this with {self.log_name} and uv's version; nothing was installed.",
                )
        if "torch" not in found:
            raise RefusedError("torch is missing from the resolution.", next_step=f"Report this with {self.log_name}.")

    def _shadow(self) -> tuple[str | None, str | None]:
        """The same resolution without exclusions, to learn who wanted what; nothing of it is installed."""
        if self.project is None and not self.request.requirements:
            return "", None
        try:
            text = self.uv.run(
                *("pip", "compile", str(self.work / "shadow.in"), *self._common(), "--no-build"),
                *("--annotation-style", "split", "--no-header"),
                step="look who wants the excluded packages",
                timeout_s=min(_SHADOW_TIMEOUT_S, self.request.resolve_timeout_s),
                log_name=self.log_name,
                variables=self._environment(with_torch=False),
                show=False,
            )
        except OngpuError as error:
            return None, error.message
        return text, None


def _parsed(lock: Path) -> tuple[Locked, ...]:
    try:
        return parse_lock(lock.read_text("utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise WorkError(
            f"uv wrote no lock that can be read: {error}.", next_step="Type: python -m pip install --upgrade uv."
        ) from error
