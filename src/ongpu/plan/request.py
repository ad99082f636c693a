"""What the user asks of a choice: a torch requirement, a channel, a Python."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from ongpu.domain.build import TorchBuild
from ongpu.errors import UsageError

CHANNELS: Final = ("stable", "nightly", "any")
COMPANIONS: Final = ("torchvision", "torchaudio")
INDEX: Final = "https://download.pytorch.org/whl"
_PYTHON = re.compile(r"(3)\.(\d{1,2})(?:\.\d+\S*?)?(t?)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked.

    :param torch_spec: ``"torch>=2.8,<2.10"``, ``">=2.8"``, ``"2.9.1"``, ``"==2.9.1+cu128"``; ``None``: any.
    :param channel: ``stable``, ``nightly`` or ``any`` (nightly where no stable build fits).
    :param python: ``"3.12"``, ``"3.12.3"`` or ``"3.13t"`` (free-threaded); ``None``: the machine's own.
    :param companions: ``torchvision`` and ``torchaudio`` where the command is to install them too.
    """

    torch_spec: str | None = None
    channel: str = "stable"
    python: str | None = None
    companions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A parsed torch requirement. ``cuda_tag`` is the local label that was asked for, ``cu128``."""

    text: str
    specifiers: SpecifierSet
    cuda_tag: str | None

    def allows(self, build: TorchBuild) -> bool:
        """Whether a build satisfies it. A nightly counts where the bounds would take its final release."""
        if self.cuda_tag is not None and build.cuda_tag != self.cuda_tag:
            return False
        return self.allows_release(build.torch)

    def allows_release(self, torch: str) -> bool:
        """Whether a release satisfies the bounds, the tag apart."""
        return self.specifiers.contains(version(torch), prereleases=True)


@functools.lru_cache(maxsize=1024)
def version(text: str) -> Version:
    """A release as a comparable version, read once: the planner compares hundreds."""
    return Version(text)


def check_request(request: Request) -> Requirement | None:
    """Read the parts of a request. Raises :class:`UsageError` naming the part that cannot be read."""
    if request.channel not in CHANNELS:
        raise UsageError(
            f"{request.channel!r} is no channel of PyTorch builds.", next_step="Use stable, nightly or any."
        )
    for one in request.companions:
        if one not in COMPANIONS:
            raise UsageError(f"{one!r} is no companion of torch.", next_step="Use torchvision or torchaudio.")
    return requirement(request.torch_spec) if request.torch_spec is not None else None


def requirement(text: str) -> Requirement:
    """Read a torch requirement. Raises :class:`UsageError` for one that cannot be read, or that asks for CPU."""
    body = text.partition(";")[0].strip()  # a marker says where it holds, not what is wanted
    body = re.sub(r"^torch\b\s*(?:\[[^\]]*\])?\s*(?!\w)", "", body).strip().strip("()").strip()
    tag = None
    if found := re.search(r"==\s*[^,+\s]+\+([\w.]+)\s*$", body) or re.match(r"[\d.]+\+([\w.]+)\s*$", body):
        tag = found[1]
        body = body[: found.start(1) - 1]
    if tag == "cpu":
        raise UsageError(
            f"{text!r} asks for a CPU build.", next_step="Ask for a version alone, such as 'torch==2.9.1'."
        )
    if tag is not None and not re.match(r"cu\d{3}\Z", tag):
        raise UsageError(f"{text!r} asks for {tag!r}, which is no CUDA tag.", next_step="Ask for a tag such as cu128.")
    if re.match(r"\d+\.\d+\Z", body):
        body = f"=={body}.*"
    elif re.match(r"\d", body):
        body = f"=={body}"
    try:
        return Requirement(text=text.strip(), specifiers=SpecifierSet(body), cuda_tag=tag)
    except (InvalidSpecifier, InvalidVersion):
        raise UsageError(
            f"{text!r} is no torch requirement.", next_step="Give one such as 'torch>=2.8,<2.10' or '2.9.1'."
        ) from None


def python_tag(text: str, *, free_threaded: bool = False) -> str:
    """``3.12`` for ``3.12.3``, ``3.13t`` for ``3.13t``. Raises :class:`UsageError` for anything else."""
    found = _PYTHON.match(text.strip())
    if not found:
        raise UsageError(f"{text!r} is no Python version.", next_step="Give one such as 3.12, or 3.13t.")
    return f"{found[1]}.{found[2]}{'t' if free_threaded or found[3] else ''}"


def index_url(build: TorchBuild) -> str | None:
    """The index a build is installed from; ``None`` for PyPI's own variant."""
    if build.pypi_default:
        return None
    return f"{INDEX}/nightly/{build.cuda_tag}" if build.channel == "nightly" else f"{INDEX}/{build.cuda_tag}"


def nearest_python(wanted: str, pythons: tuple[str, ...]) -> str:
    """The Python of a build that is closest to the one at hand, ordinary builds before free-threaded ones."""
    minor = int(wanted.removesuffix("t").split(".")[1])
    ordinary = [one for one in pythons if not one.endswith("t")] or list(pythons)
    return min(ordinary, key=lambda one: abs(int(one.removesuffix("t").split(".")[1]) - minor))
