"""Keeping secrets, and on request identities, out of evidence. Pure: every value is given, nothing is asked.

A secret is the value of an environment variable that is not known to be harmless, in the forms it travels in
(plain, URL-encoded, base64, inside JSON), or a text that looks like a credential. What is *not* caught: a
secret shorter than eight characters, one split over two lines, one in a form not named here.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

from ongpu.domain.arch import Fit
from ongpu.domain.build import DecisionKind
from ongpu.domain.machine import Modules
from ongpu.domain.verdict import Cause, Outcome, WitnessState
from ongpu.errors import WorkError
from ongpu.evidence.statement import JOURNAL_NAME

_MIN_SECRET: Final = 8
_MIN_BASE64_CORE: Final = 9
_MAX_FILE_BYTES: Final = 256 << 20

# Variables whose values say what a GPU job sees and does; recorded with their values.
_RECORDED: Final = re.compile(
    r"(?:CUDA|CUDNN|CUBLAS|NVIDIA|NCCL|TORCH|TORCHINDUCTOR|PYTORCH|OMP|MKL|OPENBLAS|KMP|GLOO|XLA|JAX|TF_CPP)_[A-Z0-9_]+"
    r"|PYTHON(?:HASHSEED|PATH|HOME|UNBUFFERED|NOUSERSITE|OPTIMIZE|WARNINGS|UTF8)"
    r"|VIRTUAL_ENV|CONDA_(?:PREFIX|DEFAULT_ENV)|LD_LIBRARY_PATH|LD_PRELOAD"
    r"|LANG|LC_[A-Z]+|TZ|OS|WSL_DISTRO_NAME|(?:LOCAL_|GROUP_|NODE_)?RANK|(?:LOCAL_)?WORLD_SIZE|MASTER_(?:ADDR|PORT)"
)
# Variables of every shell and desktop, whose values are no secrets: not recorded, not looked for.
_HARMLESS: Final = re.compile(
    r"PATH|PWD|OLDPWD|HOME|SHELL|SHLVL|TERM|TERM_PROGRAM(?:_VERSION)?|COLORTERM|COLUMNS|LINES|USER|LOGNAME|USERNAME"
    r"|USERPROFILE|HOSTNAME|COMPUTERNAME|DISPLAY|WAYLAND_DISPLAY|EDITOR|VISUAL|PAGER|LESS|LESSOPEN|LESSCLOSE|LS_COLORS"
    r"|MANPATH|INFOPATH|TMP|TEMP|TMPDIR|_|XDG_[A-Z_]+|DBUS_SESSION_BUS_ADDRESS|DEBIAN_FRONTEND|NO_COLOR|FORCE_COLOR"
    r"|PS[1-4]|PROMPT|PATHEXT|COMSPEC|SYSTEMROOT|SYSTEMDRIVE|WINDIR|APPDATA|LOCALAPPDATA|PROGRAM(?:DATA|FILES.*)"
    r"|COMMONPROGRAM.*|PUBLIC|NUMBER_OF_PROCESSORS|PROCESSOR_[A-Z]+|PYTHONDONTWRITEBYTECODE|PYTEST_[A-Z_]+"
    r"|UV_(?:CACHE_DIR|PYTHON|LINK_MODE|PROJECT_ENVIRONMENT)|PIP_(?:CACHE_DIR|DISABLE_PIP_VERSION_CHECK|ROOT_USER_ACTION)"
    r"|PYENV_[A-Z_]+|CONDA_[A-Z_]+|CI|LD_LIBRARY_PATH_ORIG|MAKE(?:FLAGS|LEVEL|FILES)|MFLAGS"
)
# Names whose values are secrets whatever they look like, even a path-like or a recorded one.
_SECRET_NAME: Final = re.compile(r"(?i).*(?:TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE|AUTH).*")

# Words that a journal is made of. A variable or a host that happens to have one as its value names no secret,
# and replacing it would make an honest journal unreadable.
_RESERVED: Final = frozenset(
    {one.value for kind in (Outcome, WitnessState, Cause, Fit, Modules, DecisionKind) for one in kind}
    | {"train", "training", "cpu-comparison", "enable", "run", "completed", "failed", "interrupted", "blocked"}
    | {"torch_cuda_check", "cuda", "cuda:0", "cpu", "auto", "linux", "windows", "x86_64", "aarch64", "nvidia", "gpu"}
    | {"torch", "step", "times", "warning", "error", "end", "malformed", "process", "device", "fail-fast", "timeout"}
    | {"env_info.txt", "torch_cuda_check.txt", "training_log.txt", "nvidia_smi.txt", "README.md", "verdict.json"}
)
# What a GPU is called, or its UUID: public, wherever it stands.
_PUBLIC: Final = re.compile(r"(?i)NVIDIA[ \w.()/+-]*|(?:GPU-|MIG-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PLAIN_WORD: Final = re.compile(r"[A-Za-z]+|[0-9]+")

_PATTERNS: Final[tuple[tuple[str, str], ...]] = (
    ("private-key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:[\s\S]*?-----END [A-Z0-9 ]*PRIVATE KEY-----|[\s\S]*)"),
    ("token", r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}"),
    ("token", r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,})"),
    ("token", r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"),
    ("token", r"\bsk-[A-Za-z0-9_-]{16,}"),
    ("token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("token", r"\b(?:pypi-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{35}|dop_v1_[a-f0-9]{64})"),
    ("token", r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"),
    (
        "authorization",
        r"(?i)(?P<keep>authorization['\"]?\s*[:=]\s*['\"]?)(?:bearer|basic|token) +[A-Za-z0-9._~+/=-]{8,}",
    ),
    ("userinfo", r"(?P<keep>://[^\s/@:'\"]*:)[^\s/@'\"]+(?=@)"),
    ("userinfo", r"(?P<keep>://)[^\s/@:'\"]{20,}(?=@)"),
    ("netrc", r"(?i)(?P<keep>\blogin\s+\S{1,100}\s+password\s+)[^\s'\"]{4,}"),
    (
        "parameter",
        r"(?i)(?P<keep>[?&](?:token|access_token|api_?key|sig|signature|auth|X-Amz-Signature|X-Goog-Signature)=)"
        r"[^&\s'\"]{6,}",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What ``--pseudonymous`` replaces: who, where. Empty fields are not looked for.

    ``hosts`` are all names of this machine; ``paths`` further folders with their placeholders, such as
    ``("/opt/env", "<env>")``; ``uuids`` GPU UUIDs and ``serials`` board serials, replaced by others that
    follow from ``salt``, which is not kept.
    """

    hosts: tuple[str, ...] = ()
    user: str | None = None
    home: str | None = None
    cwd: str | None = None
    temp: str | None = None
    paths: tuple[tuple[str, str], ...] = ()
    uuids: tuple[str, ...] = ()
    serials: tuple[str, ...] = ()
    salt: str = ""


class Redactor:
    """Replaces secrets by ``<redacted:NAME>`` and identities by ``<host>``, ``<home>`` ... Call it with a text.

    :param environment: the environment whose unlisted values are secrets.
    :param public: values that are no secrets though a variable holds them (a GPU's name, a version).
    :param is_path: whether a value names something that exists on this disk; such values are no secrets
        unless their variable's name says so.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        public: Iterable[str] = (),
        identity: Identity | None = None,
        is_path: Callable[[str], bool] = lambda _value: False,
    ) -> None:
        known = frozenset(public)
        self._replacements: dict[str, str] = {}
        names: dict[str, str] = {}
        words: set[str] = set()
        for name, value in sorted(environment.items()):
            if value in known or not _is_secret(name, value, is_path):
                continue
            if _PLAIN_WORD.fullmatch(value) and not _SECRET_NAME.fullmatch(name):
                words.add(value)
            for form in _forms(value):
                names.setdefault(form, f"<redacted:{name}>")
        # Longest first, so that a secret that contains another is replaced whole.
        self._replacements.update(names)
        ordered = sorted(names, key=len, reverse=True)
        # A plain word is replaced where it stands alone: MODE=training must not break training_log.txt.
        parts = [rf"(?<![\w-]){one}(?![\w-])" if one in words else re.escape(one) for one in ordered]
        self._literal = re.compile("|".join(parts)) if parts else None
        self._identity = _identity_rules(identity) if identity is not None else ()

    def __call__(self, text: str) -> str:
        """``text`` without what must not be told."""
        if self._literal is not None:
            text = self._literal.sub(lambda found: self._replacements[found[0]], text)
        for label, pattern in _COMPILED:
            text = pattern.sub(label, text)
        for pattern, substitute in self._identity:
            text = pattern.sub(substitute, text)
        return text


def recorded_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The environment as evidence: values of allow-listed variables, for all others the name alone (null)."""
    return {
        name: value if _RECORDED.fullmatch(name) and not _SECRET_NAME.fullmatch(name) else None
        for name, value in sorted(environment.items())
    }


def redact_file(path: Path, redact: Callable[[str], str]) -> bool:
    """Rewrite a file of ours without what must not be told; returns whether anything was replaced.

    Other bytes stay as they are, whatever their encoding. Raises :class:`WorkError` where it cannot be done:
    the file must not be sealed then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise WorkError(
                f"{path} has more than {_MAX_FILE_BYTES} bytes and was not searched for secrets.",
                next_step="Let the program write less, or remove that file from the evidence.",
            )
        before = path.read_bytes()
        after = redact(before.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        if after == before:
            return False
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(after)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise WorkError(
            f"{path} could not be searched for secrets: {error.strerror}.",
            next_step="Free space on that disk, or name another folder with --evidence.",
        ) from error
    except BaseException:  # interrupted: half a copy is no file of a bundle
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return True


def redact_folder(folder: Path, redact: Callable[[str], str]) -> tuple[str, ...]:
    """Search every file of an unsealed bundle, whoever wrote it; returns the names of those that were changed.

    To be done before the ``files`` observation takes their digests. The journal is left out: it is redacted as
    it is written. Links are not followed. Raises :class:`WorkError` as :func:`redact_file` does.
    """
    changed = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name != JOURNAL_NAME and path.is_file() and not path.is_symlink() and redact_file(path, redact):
            changed.append(name)
    return tuple(changed)


def _is_secret(name: str, value: str, is_path: Callable[[str], bool]) -> bool:
    if len(value) < _MIN_SECRET or value in _RESERVED:
        return False
    if _SECRET_NAME.fullmatch(name):
        return True
    if _RECORDED.fullmatch(name) or _HARMLESS.fullmatch(name) or _PUBLIC.fullmatch(value):
        return False
    return not is_path(value)


def _forms(secret: str) -> set[str]:
    forms = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret)}
    forms.add(json.dumps(secret)[1:-1])
    forms.add(json.dumps(secret, ensure_ascii=False)[1:-1].replace("/", "\\/"))
    forms.add(repr(secret)[1:-1])
    raw = secret.encode("utf-8", "surrogateescape")
    forms.add(raw.hex())
    for offset in range(3):
        # Base64 of a longer text that holds the secret: the letters that depend on the secret alone.
        padded = base64.b64encode(b"\0" * offset + raw).decode("ascii").rstrip("=")
        first = (8 * offset + 5) // 6
        last = (8 * (offset + len(raw))) // 6
        core = padded[first:last]
        if len(core) >= _MIN_BASE64_CORE:
            forms.add(core)
            forms.add(core.replace("+", "-").replace("/", "_"))
    return {form for form in forms if len(form) >= _MIN_SECRET}


def _identity_rules(identity: Identity) -> tuple[tuple[re.Pattern[str], str], ...]:
    rules: list[tuple[str, str, bool]] = []
    usual = ((identity.cwd, "<cwd>"), (identity.home, "<home>"), (identity.temp, "<tmp>"))
    for path, word in (*usual, *identity.paths):
        trimmed = (path or "").rstrip("/\\")
        if len(trimmed) > 1:
            rules.append((trimmed, word, True))
    rules.extend((host, "<host>", False) for host in identity.hosts if _is_host(host))
    uuids = {form for one in identity.uuids if one for form in (one, one.removeprefix("GPU-"))}
    rules.extend((one, pseudonym(one, salt=identity.salt), False) for one in sorted(uuids))
    rules.extend((one, pseudonym(one, salt=identity.salt), False) for one in identity.serials if len(one) > 3)
    rules.sort(key=lambda rule: len(rule[0]), reverse=True)
    compiled = [(_whole(literal, path=path), word) for literal, word, path in rules]
    if identity.user and identity.user != "root":
        # Only where a user's name stands as one: a user may be called "train", and a word stays a word.
        name = re.escape(identity.user)
        compiled.append((re.compile(rf"(?<=/home/){name}(?![\w-])|(?<=[/\\]Users[/\\]){name}(?![\w-])"), "<user>"))
        compiled.append((re.compile(rf"(?<![\w@.-]){name}(?=@)"), "<user>"))
    return tuple(compiled)


def _is_host(name: str) -> bool:
    return len(name) > 1 and name != "localhost" and name not in _RESERVED


def _whole(literal: str, *, path: bool) -> re.Pattern[str]:
    # A name ends where a letter, digit, underscore or hyphen does not go on: /home/ann is no part of /home/anna.
    before = r"(?<![\w.-])" if not path else r"(?<![\w])"
    return re.compile(rf"{before}{re.escape(literal)}(?![\w-])")


def pseudonym(value: str, *, salt: str) -> str:
    """Another value of the same form, the same for the same salt: a UUID stays a UUID with its prefix."""
    prefix, found = "", value
    for known in ("GPU-", "MIG-"):
        if value.startswith(known):
            prefix, found = known, value.removeprefix(known)
    # torch names the same GPU without the prefix, and must still name the same one.
    digest = hashlib.sha256(f"{salt}\n{found.lower()}".encode()).hexdigest()
    try:
        uuid.UUID(found)
    except ValueError:
        return f"<id:{digest[:12]}>"
    return f"{prefix}{uuid.UUID(digest[:32])}"


# What stands before a credential and says what it is, is kept.
_COMPILED: Final = tuple(
    (("\\g<keep>" if "?P<keep>" in pattern else "") + f"<redacted:{label}>", re.compile(pattern))
    for label, pattern in _PATTERNS
)
