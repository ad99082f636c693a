"""Sealing: the manifest is written last, whole, exactly once; and closing what a crash left open."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from ongpu.domain.verdict import Verdict
from ongpu.domain.witness import Observation
from ongpu.errors import RefusedError, UsageError, WorkError
from ongpu.evidence import challenge, statement
from ongpu.evidence.archive import ArchiveError, Contents, Limits, read_bundle
from ongpu.evidence.chain import scan_journal
from ongpu.evidence.dsse import Signer
from ongpu.evidence.journal import Clock, Journal, JournalError
from ongpu.evidence.place import sync_folder
from ongpu.evidence.recompute import recompute
from ongpu.evidence.redact import redact_folder
from ongpu.evidence.statement import ENVELOPE_NAME, JOURNAL_NAME, MANIFEST_NAME

Pages: TypeAlias = Callable[[Sequence[Observation], Verdict, Sequence[str]], Mapping[str, str]]
# A run seals its own files: slow disks get the time they need.
_SEAL_LIMITS: Final = Limits(seconds=600.0)
_TEMPORARY: Final = frozenset({f".{MANIFEST_NAME}.tmp", f".{ENVELOPE_NAME}.tmp"})
# Written from the verdict at the end of a run: what a run that was cut off left of them says another one.
_PAGES: Final = ("README.md", "verdict.json")


def new_start(
    *,
    profile: str,
    simulated: bool,
    tool_version: str,
    boot_id: str | None,
    nonce: str | None = None,
    run_salt: str | None = None,
    more: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """The data of ``run.start`` that sealing and checking rest on; ``more`` is added (argv, expect_gpu ...).

    The run id follows from the nonce and a salt (``run_salt``: 32 hexadecimal digits, new unless given), so that
    whatever names the run id is bound to the challenge as well.
    """
    salt = run_salt or challenge.new_salt()
    return {
        **(more or {}),
        "run_id": challenge.run_id(salt=salt, nonce=nonce),
        "run_salt": salt,
        "nonce": nonce,
        "profile": profile,
        "simulated": simulated,
        "tool_version": tool_version,
        "boot_id": boot_id,
    }


def seal(folder: Path, journal: Journal, *, verdict: Verdict, signer: Signer | None = None) -> Path:
    """Close the journal and write the manifest over everything in ``folder``; returns the manifest's path.

    The last record must be ``run.end`` by now, and every other file be written. ``verdict`` is what was shown
    to the user: it must be the one that follows from the journal as it stands on the disk
    (:meth:`Journal.observations` and :func:`recompute`), else the bundle would refute itself.

    :raises WorkError: the disk could not take it; the folder is then unsealed and can be recovered.
    :raises RefusedError: ``verdict`` does not follow from the journal, or something in the folder cannot be
        part of a bundle; nothing has been sealed.
    """
    return _seal(folder, journal, verdict=verdict, signer=signer)


def _seal(folder: Path, journal: Journal, *, verdict: Verdict | None, signer: Signer | None) -> Path:
    """Seal with the verdict that was shown, or, where nobody was there to show one, with the journal's own."""
    observations = journal.observations()
    try:
        recomputed = recompute(observations)
    except ValueError as error:
        raise RefusedError(
            f"No verdict follows from the journal in {folder}: {error}.",
            next_step="Report this as a defect of ongpu, with the journal.",
        ) from error
    if verdict is not None and statement.claimed(recomputed) != statement.claimed(verdict):
        raise RefusedError(
            f"The verdict shown ({verdict.outcome.value}) is not the one the journal gives "
            f"({recomputed.outcome.value}).",
            next_step="Report this as a defect of ongpu, with the journal.",
        )
    if (folder / MANIFEST_NAME).exists():
        raise RefusedError(f"{folder} is sealed already.", next_step="Start a new run for new evidence.")
    journal.close()
    contents = _read(folder)
    sealed = contents.kept.get(JOURNAL_NAME, b"")
    changed = RefusedError(
        f"The journal in {folder} was changed while it was being sealed.",
        next_step="Find what writes into that folder, and run again with another one.",
    )
    try:
        unlike = not sealed.endswith(b"\n") or scan_journal(sealed).head != journal.head
    except JournalError as error:
        raise changed from error
    if unlike:
        raise changed
    manifest = statement.render(
        observations=observations,
        head=journal.head,
        files=contents.files,
        verdict=recomputed,
        signer=None if signer is None else signer.public,
    )
    path = folder / MANIFEST_NAME
    try:
        for name in contents.files:
            _sync_file(folder / name)
        if signer is not None:
            _write(folder / ENVELOPE_NAME, signer.envelope(manifest))
        _write(path, manifest)
        sync_folder(folder)
    except OSError as error:
        raise WorkError(
            f"The manifest in {folder} could not be written: {error.strerror}.",
            next_step=f"Free space on that disk, then run: ongpu evidence recover {folder}",
        ) from error
    return path


def recover(
    folder: Path,
    *,
    clock: Clock,
    boot_id: str | None,
    redact: Callable[[str], str],
    pages: Pages | None = None,
) -> Path:
    """Seal what a crashed run left, as interrupted; it can never be proven. Returns the manifest's path.

    A torn last line is dropped and its length recorded. A journal that is damaged otherwise is left as it is. Files are
    searched for the secrets that ``redact`` knows now; names that a pseudonymous run would have replaced stay in them.
    ``pages`` writes ``README.md`` and ``verdict.json`` anew, and of a blocked run ``blocked/``; without it the bundle
    has none of them.

    :raises WorkError: a file could not be searched, or the disk not take the seal.
    :raises UsageError: there is nothing to recover here: no journal, a manifest already, or a living run.
    :raises RefusedError: the journal is damaged.
    """
    if (folder / MANIFEST_NAME).exists():
        raise UsageError(f"{folder} is sealed already.", next_step=f"Check it with: ongpu evidence check {folder}")
    try:
        journal = Journal.reopen(folder, clock=clock, redact=redact)
    except JournalError as error:
        raise RefusedError(
            f"{folder} cannot be recovered: {error}.", next_step="Keep it for inspection and run again."
        ) from error
    try:
        if journal.length == 0:
            raise RefusedError(
                f"{folder} holds no complete record: the run died before it began.",
                next_step="Delete the folder and run again.",
            )
        searched = [path.name for path in folder.glob(".*.tmp") if (folder / path.name[1:-4]).exists()]
        for name in (*_TEMPORARY, *searched, ENVELOPE_NAME, *_PAGES):
            (folder / name).unlink(missing_ok=True)
        if not any(one.kind == "files" for one in journal.observations()):
            redact_folder(folder, redact)  # the run died before it had searched what its command wrote
        journal.record("recovered", {"boot_id_now": boot_id, "dropped_bytes": journal.dropped_bytes})
        if pages is not None:
            _write_pages(folder, journal, pages=pages, redact=redact)
        return _seal(folder, journal, verdict=None, signer=None)
    finally:
        with contextlib.suppress(WorkError):
            journal.close()


def _write_pages(folder: Path, journal: Journal, *, pages: Pages, redact: Callable[[str], str]) -> None:
    observations = journal.observations()
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        written = pages(observations, recompute(observations), sorted([*names, *_PAGES]))
        for name, text in written.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(redact(text).encode("utf-8", "replace"))
    except ValueError as error:
        raise RefusedError(
            f"No verdict follows from the journal in {folder}: {error}.",
            next_step="Report this as a defect of ongpu, with the journal.",
        ) from error
    except OSError as error:
        raise WorkError(
            f"The pages in {folder} could not be written: {error.strerror}.",
            next_step=f"Free space on that disk, then run: ongpu evidence recover {folder}",
        ) from error


def _read(folder: Path) -> Contents:
    try:
        return read_bundle(folder, limits=_SEAL_LIMITS)
    except ArchiveError as error:
        raise RefusedError(
            f"{folder} cannot be sealed: {error}.",
            next_step=f"Move that away, then run: ongpu evidence recover {folder}",
        ) from error


def _write(path: Path, data: bytes) -> None:
    """Written aside, synced, renamed: the name appears with all of its bytes or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(temporary, flags, 0o600)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _sync_file(path: Path) -> None:
    fd = os.open(path, (os.O_RDWR if os.name == "nt" else os.O_RDONLY) | getattr(os, "O_NOFOLLOW", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
