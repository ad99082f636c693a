"""A reviewer's challenge: a nonce that no run made before it can contain.

The nonce goes into the run id and seeds the training, so that neither the journal nor the loss series of an
older run fits. Whoever issued it keeps it, and takes it for one bundle only.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Final

from ongpu.errors import UsageError

_NONCE: Final = re.compile(r"[0-9a-f]{32,64}")
_SEED_BITS: Final = 31


def new_nonce() -> str:
    """32 hexadecimal digits from the system's generator."""
    return secrets.token_hex(16)


def check_nonce(text: str) -> str:
    """``text`` as a nonce. Raises :class:`UsageError` for anything but 32 to 64 lower-case hexadecimal digits."""
    nonce = text.strip()
    if not _NONCE.fullmatch(nonce):
        raise UsageError(
            f"{text[:80]!r} is not a nonce of 32 to 64 hexadecimal digits.",
            next_step="Give the nonce that ongpu challenge printed.",
        )
    return nonce


def new_salt() -> str:
    """What makes two runs of one nonce differ: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def run_id(*, salt: str, nonce: str | None) -> str:
    """The run id that follows from both: 32 hexadecimal digits."""
    return hashlib.sha256(f"ongpu-run\n{nonce or ''}\n{salt}".encode()).hexdigest()[:32]


def seed(nonce: str) -> int:
    """The training seed that follows from a nonce: 0 to 2**31 - 1, so that every framework takes it."""
    digest = hashlib.sha256(f"ongpu-seed\n{nonce}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (1 << _SEED_BITS)


def seeds_in(argv: Sequence[str]) -> set[str]:
    """Every value that a command line gives to ``--seed``, in both spellings."""
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    seeds = {value for word, value in pairs if word == "--seed"}
    return seeds | {word.removeprefix("--seed=") for word in argv if word.startswith("--seed=")}
