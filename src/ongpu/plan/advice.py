"""Reading an installer's command that somebody was given: which torch, from which index. Nothing is run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Final

from ongpu.errors import UsageError

_VALUED: Final = frozenset(
    {
        "-i",
        "--index-url",
        "--default-index",
        "--extra-index-url",
        "--index",
        "-f",
        "--find-links",
        "-r",
        "--requirement",
    }
    | {"-c", "--constraint", "-e", "--editable", "-t", "--target", "-p", "--python", "--torch-backend", "--prefix"}
    | {"--channel", "-n", "--name", "--timeout", "--proxy", "--trusted-host", "--cert", "--root", "--platform"}
    | {"--python-version", "--python-platform", "--cache-dir", "--config-settings", "--override", "--group", "--extra"}
)
_INDEX = re.compile(r"/(?:(nightly|test)/)?(cu\d{2,3}|cpu|rocm[\d.]+|xpu)(?:/|$|\?|#)")
_PYTORCH_ROOT = re.compile(r"download\.pytorch\.org/whl(?:/(nightly|test))?(?:/torch_stable\.html|/stable\.html)?/?$")
_PYPI = re.compile(r"//(?:www\.)?pypi\.(?:org|python\.org)/")
_WHEEL = re.compile(r"torch-(\d[\w.]*?)(?:(?:\+|%2B)(\w[\w.]*))?-cp(\d)(\d+)", re.IGNORECASE)
_TOOL = re.compile(r"(?:\S*[/\\])?(pip3?(?:\.\d+)?|uv|poetry|pdm|pixi|conda|mamba|micromamba)(?:\.exe)?\Z")
_TORCH_WORD = re.compile(r"(?:torch|pytorch)(?:\[[^\]]*\])?\s*(?:[=<>!~@].*)?\Z", re.IGNORECASE)
_COMPANION = re.compile(r"(torchvision|torchaudio)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Where wheels come from: ``PyPI``, a folder of PyTorch's index (channel and tag), or something not known.

    ``kind`` is ``pypi``, ``tag`` or ``other``.
    """

    kind: str
    channel: str = "stable"
    tag: str | None = None
    url: str | None = None

    @property
    def label(self) -> str:
        """How a person calls it: ``nightly/cu124``, ``PyPI``."""
        if self.kind == "tag":
            return self.tag or "" if self.channel == "stable" else f"{self.channel}/{self.tag}"
        return "PyPI" if self.kind == "pypi" else self.url or "an index"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A command, taken apart.

    ``installer`` is ``pip``, ``uv`` or ``conda``. ``torch`` is the requirement as written, ``""`` for any, and
    ``None`` where the command does not name torch (a companion of it counts as naming it).
    """

    command: str
    installer: str
    torch: str | None
    index: Index
    extra: tuple[Index, ...] = ()
    companions: tuple[str, ...] = ()
    backend: str | None = None
    conda_cuda: str | None = None
    channels: tuple[str, ...] = field(default=())


def read_command(command: str) -> Advice:
    """Take a command apart; of several joined by ``&&`` or ``;`` the first that installs torch.

    :raises UsageError: for a text that cannot be read as a command, or that installs nothing.
    """
    found = [one for part in _parts(command) if (one := _read_part(command, part)) is not None]
    if not found:
        raise UsageError(
            f"{command!r} is no install command.", next_step="Give one such as 'pip install torch --index-url URL'."
        )
    return next((one for one in found if one.torch is not None), found[0])


def _parts(command: str) -> list[list[str]]:
    """The words of each command of a line."""
    text = command.replace("\\\n", " ").strip().lstrip("%!$> ")
    text = re.sub(r"\\(?=\w)", "/", text)  # a Windows path, not an escape
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|")
    lexer.commenters = ""  # the hash in a URL begins no comment
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    try:
        for token in lexer:
            if set(token) <= set(";&|"):
                parts.append([])
            else:
                parts[-1].append(token)
    except ValueError as wrong:
        raise UsageError(
            f"The command cannot be read: {wrong}.", next_step="Quote it as one argument, as you would type it."
        ) from None
    return parts


def _read_part(command: str, tokens: list[str]) -> Advice | None:
    verbs = [place for place, one in enumerate(tokens) if one in {"install", "add", "sync", "create"}]
    tools = [found[1] for one in tokens if (found := _TOOL.match(one))]
    if not verbs or not tools:
        return None
    installer = {"uv": "uv", "uvx": "uv"}.get(tools[0], "pip" if re.match(r"pip|poetry|pdm", tools[0]) else "conda")
    options, words = _split(tokens[verbs[0] + 1 :])
    if installer == "conda":
        return _conda(command, words, options, tool=tools[0])
    named = [one for one in words if _TORCH_WORD.match(one)]
    wheels = [found for one in words if (found := _WHEEL.search(one))]
    companions = tuple(dict.fromkeys(found[1] for one in words if (found := _COMPANION.match(one))))
    torch = re.sub(r"^(?:py)?torch(?:\[[^\]]*\])?\s*", "", named[0]) if named else "" if companions else None
    if wheels:
        torch = f"=={wheels[0][1]}" + (f"+{wheels[0][2]}" if wheels[0][2] else "")
    index = [url for name in ("-i", "--index-url", "--default-index") for url in options.get(name, ())]
    extra = [url for name in ("--extra-index-url", "--index", "-f", "--find-links") for url in options.get(name, ())]
    urls = [one for one in words if _WHEEL.search(one) and "://" in one]
    return Advice(
        command=command,
        installer=installer,
        torch=torch,
        index=_index(next(reversed(urls or index), None)),
        extra=tuple(_index(one) for one in extra),
        companions=companions,
        backend=next(reversed(options.get("--torch-backend", [])), None),
    )


def _split(tokens: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options with their values, and the other words."""
    options: dict[str, list[str]] = {}
    words: list[str] = []
    rest = iter(tokens)
    for one in rest:
        if not one.startswith("-"):
            words.append(one)
            continue
        name, equals, value = one.partition("=")
        if equals:
            options.setdefault(name, []).append(value)
        elif name in _VALUED:
            options.setdefault(name, []).append(next(rest, ""))
        else:
            options.setdefault(name, []).append("")
    return options, words


def _conda(command: str, words: list[str], options: dict[str, list[str]], *, tool: str) -> Advice:
    named = [one for one in words if re.match(r"(?:pytorch|torch)(?:[=<>!].*)?\Z", one)]
    cuda = [
        found[1] for one in words if (found := re.match(r"(?:pytorch-cuda|cudatoolkit|cuda-version)=+([\d.]+)", one))
    ]
    spec = re.sub(r"^(?:py)?torch", "", named[0]) if named else None
    if spec and re.match(r"=[^=]", spec):
        spec = f"={spec}"
    return Advice(
        command=command,
        installer="conda",
        torch=spec,
        index=Index(kind="other", url="conda"),
        conda_cuda=cuda[0] if cuda else None,
        channels=("conda-forge",) if tool == "pixi" else tuple(options.get("-c", []) + options.get("--channel", [])),
    )


def _index(url: str | None) -> Index:
    if url is None or _PYPI.search(url):
        return Index(kind="pypi", url=url)
    if found := _INDEX.search(url):
        return Index(kind="tag", channel=found[1] or "stable", tag=found[2], url=url)
    if found := _PYTORCH_ROOT.search(url):
        return Index(kind="other", channel=found[1] or "stable", url=url)
    return Index(kind="other", url=url)
