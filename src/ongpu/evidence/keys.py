"""Key files, and the list of nonces a reviewer has spent: the few files of this room that are no bundle."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ongpu.errors import RefusedError, UsageError, WorkError
from ongpu.evidence.challenge import check_nonce
from ongpu.evidence.dsse import Signer, generate
from ongpu.evidence.trust import public_line

_MAX_KEY_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFiles:
    """A key pair on disk; ``public_key`` is 64 hexadecimal digits."""

    private: Path
    public: Path
    public_key: str


def write_key_pair(private: Path, *, name: str) -> KeyFiles:
    """Make a key pair: ``private`` (PEM, mode 0600) and ``private`` + ``.pub`` (the line a reviewer trusts).

    Raises :class:`UsageError` where one of them exists: a key is never written over.
    """
    public = private.with_name(f"{private.name}.pub")
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists; a key is never written over.", next_step="Name another file.")
    pair = generate()
    _create(private, pair.private_pem, mode=0o600)
    _create(public, public_line(pair.public, name=name).encode("utf-8"), mode=0o644)
    return KeyFiles(private=private, public=public, public_key=pair.public)


def read_signer(path: Path) -> Signer:
    """The signer of a private key file. Raises :class:`UsageError`, also where others may read the file."""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(
            f"The signing key {path} cannot be read: {error.strerror}.", next_step="Make one with ongpu keygen."
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise UsageError(
            f"The signing key {path} can be read by others (mode {mode & 0o777:04o}).",
            next_step=f"Make a new one with ongpu keygen, or if nobody read it: chmod 600 {path}",
        )
    return Signer(data)


def spend_nonce(ledger: Path, *, nonce: str, manifest_sha256: str) -> bool:
    """Note in ``ledger`` that ``nonce`` was answered by this bundle; returns whether it had been before.

    Raises :class:`RefusedError` where another bundle has answered it: a nonce is good for one.
    """
    check_nonce(nonce)
    try:
        lines = ledger.read_text("utf-8").split("\n") if ledger.exists() else []
        taken = dict(line.split(" ", 1) for line in lines if line)
        if taken.get(nonce) == manifest_sha256:
            return True
        if nonce in taken:
            raise RefusedError(
                f"Another bundle has answered the nonce {nonce}.",
                next_step="Give out a new one with ongpu challenge, one for each run.",
            )
        with ledger.open("a", encoding="utf-8") as stream:
            stream.write(f"{nonce} {manifest_sha256}\n")
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, ValueError) as error:
        raise WorkError(
            f"The list of spent nonces {ledger} cannot be used: {error}.", next_step="Name another file."
        ) from error
    return False


def _create(path: Path, data: bytes, *, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags, mode), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}.", next_step="Name a file in a folder you can write to."
        ) from error
