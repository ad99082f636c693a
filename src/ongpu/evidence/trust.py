"""Whose signatures a reviewer believes, and up to which level."""

from __future__ import annotations

import base64
import binascii
import enum
from dataclasses import dataclass
from typing import Final

from ongpu.errors import UsageError
from ongpu.evidence.dsse import is_public_key

_LABEL: Final = "ongpu-ed25519"
_MAX_TEXT: Final = 1 << 20


class Level(enum.StrEnum):
    """How far a bundle can be believed. This version can find A0 to A3; A4 needs what it cannot read yet."""

    A0 = "A0"
    A1 = "A1"
    A2 = "A2"
    A3 = "A3"
    A4 = "A4"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """One key a reviewer believes.

    ``public`` is 64 hexadecimal digits, ``level`` is A1 (a runner) or A3 (a platform that the runner does not
    control), ``name`` is the reviewer's own word for it.
    """

    public: str
    level: Level
    name: str


def read_trust(data: bytes) -> tuple[TrustedKey, ...]:
    """Read a file of trusted keys: one a line, ``[A1|A3] ongpu-ed25519 BASE64 [NAME]``, ``#`` for remarks.

    The public file that ``ongpu keygen`` writes is such a file. Raises :class:`UsageError` naming the line.
    """
    keys: dict[str, TrustedKey] = {}
    try:
        text = data[:_MAX_TEXT].decode("utf-8")
    except UnicodeDecodeError:
        raise _bad(1, "is not UTF-8 text") from None
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        level = Level.A1
        if words[0] in {Level.A1.value, Level.A3.value}:
            level = Level(words.pop(0))
        if len(words) < 2 or words[0] != _LABEL:
            raise _bad(number, f"is not '[A1|A3] {_LABEL} BASE64 [NAME]'")
        try:
            public = base64.b64decode(words[1], validate=True).hex()
        except (binascii.Error, ValueError):
            public = ""
        if not is_public_key(public):
            raise _bad(number, "holds no Ed25519 public key")
        if public in keys:
            raise _bad(number, "repeats a key")
        keys[public] = TrustedKey(public=public, level=level, name=" ".join(words[2:]) or public[:16])
    if not keys:
        raise _bad(1, "names no key")
    return tuple(keys.values())


def public_line(public: str, *, name: str) -> str:
    """The line of a public key file."""
    encoded = base64.b64encode(bytes.fromhex(public)).decode("ascii")
    return f"{_LABEL} {encoded} {' '.join(name.split())}".rstrip() + "\n"


def _bad(number: int, what: str) -> UsageError:
    return UsageError(
        f"Line {number} of the file of trusted keys {what}.",
        next_step="Give the .pub file that ongpu keygen wrote, or a file of such lines.",
    )
