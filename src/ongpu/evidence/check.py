"""Checking a bundle that somebody else made: everything is recomputed, no text in it is believed.

The obligations are numbered in :mod:`ongpu.evidence.obligations`; each problem names the one it breaks. Needs
nothing beyond the standard library and :mod:`ongpu.domain`; ``cryptography`` only where there is a signature.
No network, no process, no file written, no pickle, no YAML, no archive extracted.
"""

from __future__ import annotations

import enum
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ongpu.domain.verdict import Outcome, Verdict
from ongpu.domain.witness import Observation
from ongpu.errors import UsageError
from ongpu.evidence import crosscheck, dsse, statement, strict_json
from ongpu.evidence.archive import DEFAULT_LIMITS, ArchiveError, Contents, Limits, read_bundle
from ongpu.evidence.chain import JournalError, scan_journal
from ongpu.evidence.challenge import check_nonce, seed, seeds_in
from ongpu.evidence.obligations import Problem
from ongpu.evidence.recompute import recompute
from ongpu.evidence.statement import ENVELOPE_NAME, JOURNAL_NAME, MANIFEST_NAME
from ongpu.evidence.trust import Level, TrustedKey


class Answer(enum.StrEnum):
    """What became of the bundle. ``insufficient``: intact, but simulated or below the level asked for."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """The result of a check.

    ``outcome`` is proven only where the bundle was accepted *and* the recomputed verdict is proven; refused
    is refuted, insufficient is unknown. ``verdict`` is the recomputed one, ``claimed`` what the manifest
    says. ``level`` is the highest level found, ``None`` for a refused bundle; ``not_proven`` says in words
    what is still not shown at that level.
    """

    path: str
    answer: Answer
    outcome: Outcome
    level: Level | None
    required: Level | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    not_proven: tuple[str, ...]
    run_id: str | None
    simulated: bool | None
    verdict: Verdict | None
    claimed: Mapping[str, object] | None
    signer: str | None
    manifest_sha256: str | None

    @property
    def exit_status(self) -> int:
        """0 accepted, 1 refused, 3 insufficient."""
        return {Answer.ACCEPTED: 0, Answer.REFUSED: 1, Answer.INSUFFICIENT: 3}[self.answer]


NOT_PROVEN: Final = {
    Level.A0: "Nobody signed it: whoever holds the bundle could have made all of it, files, journal and manifest.",
    Level.A1: "The signer could have lied: nobody else changed it since, which is all that a signature says.",
    Level.A2: "The signer could have lied; you alone know that the nonce is yours and when you gave it out.",
    Level.A3: "It rests on the platform that signed: forging it needs an attack on that platform.",
}
_ALWAYS: Final = (
    "The prose in README.md and the other text files is not evidence; only the journal was judged.",
    "A faked driver or NVML library on the machine itself is not excluded by any file.",
)


class _State:
    """What has been found so far; the steps below fill it in order."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.level = Level.A0
        self.run_id: str | None = None
        self.simulated: bool | None = None
        self.verdict: Verdict | None = None
        self.claimed: Mapping[str, object] | None = None
        self.signer: str | None = None
        self.manifest_sha256: str | None = None

    def refuse(self, obligation: int, text: str) -> None:
        self.problems.append(Problem(obligation=obligation, text=text))


def check(
    path: Path,
    *,
    require: str | None = None,
    trust: Sequence[TrustedKey] = (),
    nonce: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    clock_s: Callable[[], float] = time.monotonic,
) -> CheckReport:
    """Check the bundle at ``path``, a folder or a zip file.

    :param require: the level it must reach, ``A0`` to ``A4``. With ``trust`` it is A1 unless given.
    :param trust: the keys to believe, see :func:`ongpu.evidence.trust.read_trust`.
    :param nonce: the challenge this bundle must answer.
    :raises UsageError: for a path that does not exist, an unknown level, or a text that is no nonce. Whatever
        is in the bundle is reported, never raised.
    """
    required = _required(require, trust)
    asked = None if nonce is None else check_nonce(nonce)
    if not path.exists():
        raise UsageError(f"{path} does not exist.", next_step="Name the folder or the zip file of a bundle.")
    state = _State()
    try:
        contents = read_bundle(path, limits=limits, clock_s=clock_s)
    except ArchiveError as error:
        state.refuse(error.obligation, str(error))
    else:
        _contents(state, contents, trust=trust, nonce=asked)
    return _report(state, path, required)


def _contents(state: _State, contents: Contents, *, trust: Sequence[TrustedKey], nonce: str | None) -> None:
    manifest = contents.kept.get(MANIFEST_NAME)
    if manifest is None:
        state.refuse(7, "there is no manifest.json: the run was never sealed, or is still going on")
        return
    state.manifest_sha256 = hashlib.sha256(manifest).hexdigest()
    # The signature first, over bytes; only then are the same bytes looked into.
    _signature(state, contents.kept.get(ENVELOPE_NAME), manifest)
    stated = _manifest(state, manifest, contents)
    observations, head = _journal(state, contents.kept.get(JOURNAL_NAME))
    if not observations or state.problems:
        return
    state.run_id = statement.start_field(observations, "run_id")
    state.simulated = statement.is_simulated(observations)
    journal = stated.get("journal")
    if journal != {"name": JOURNAL_NAME, "records": len(observations), "head": head}:
        state.refuse(11, "the manifest states another journal, head or number of records")
    if stated.get("run_id") != state.run_id:
        state.refuse(12, "the manifest names another run id than the journal")
    state.problems.extend(crosscheck.files(observations, contents.files))
    try:
        state.verdict = recompute(observations)
    except ValueError as error:
        state.refuse(18, f"no verdict follows from the journal: {error}")
        return
    outcome = state.verdict.outcome
    named = crosscheck.names(observations)
    state.problems.extend(crosscheck.run(observations, named, outcome))
    known_drivers = crosscheck.drivers(observations, named)
    state.problems.extend(crosscheck.texts(observations, known_drivers, contents.kept, outcome))
    if stated.get("verdict") != statement.claimed(state.verdict):
        state.refuse(18, _difference(stated.get("verdict"), state.verdict))
    again = statement.render(
        observations=observations,
        head=head,
        files=contents.files,
        verdict=state.verdict,
        signer=_stated_signer(stated),
    )
    if again != manifest:
        state.refuse(19, "manifest.json says something that does not follow from the files and the journal")
    if nonce is not None:
        _challenge(state, observations, nonce)
    _levels(state, trust, answered=nonce is not None)
    _clock_notes(state, observations)


def _signature(state: _State, envelope_bytes: bytes | None, manifest: bytes) -> None:
    """Obligation 4. The key is the one the signed manifest itself names; whether to believe it is asked later."""
    try:
        named = _stated_signer(_predicate(strict_json.parse_object(manifest)))
    except strict_json.StrictJsonError:
        named = None  # reported under obligation 5
    if envelope_bytes is None:
        if named is not None:
            state.refuse(4, "the manifest names a signer, but its signature is missing")
        return
    try:
        envelope = dsse.read_envelope(envelope_bytes)
    except dsse.EnvelopeError as error:
        state.refuse(4, f"{ENVELOPE_NAME}: {error}")
        return
    if envelope.payload != manifest:
        state.refuse(4, f"{ENVELOPE_NAME} signs other bytes than those of {MANIFEST_NAME}")
        return
    if named is None:
        state.refuse(4, "there is a signature, but the manifest names no signer")
        return
    if envelope.keyid != dsse.keyid(named):
        state.refuse(4, "the envelope names another key than the manifest")
        return
    match dsse.verify(envelope, named):
        case dsse.SignatureState.VALID:
            state.signer = named
        case dsse.SignatureState.INVALID:
            state.refuse(4, "the signature is not by the key that the manifest names")
        case dsse.SignatureState.UNAVAILABLE:
            state.notes.append("The signature was not checked: the package cryptography is not installed.")


def _manifest(state: _State, manifest: bytes, contents: Contents) -> Mapping[str, object]:
    """Obligations 5 to 8; returns the predicate, empty where there is none."""
    try:
        value = strict_json.parse_object(manifest)
    except strict_json.StrictJsonError as error:
        state.refuse(5, str(error))
        return {}
    if value.get("_type") != statement.STATEMENT_TYPE or value.get("predicateType") != statement.PREDICATE_TYPE:
        state.refuse(6, "it is no Statement v1 of a predicate type that this version knows")
        return {}
    predicate = _predicate(value)
    verdict = predicate.get("verdict")
    state.claimed = verdict if isinstance(verdict, dict) else None
    subjects, sizes = value.get("subject"), predicate.get("sizes")
    if not isinstance(subjects, list) or not isinstance(sizes, dict) or state.claimed is None:
        state.refuse(6, "subject, sizes or verdict is missing or has the wrong type")
        return predicate
    listed: dict[object, object] = {}
    for subject in subjects:
        digest = subject.get("digest") if isinstance(subject, dict) else None
        if not isinstance(digest, dict) or not isinstance(subject.get("name"), str):
            state.refuse(6, "a subject has no name or no digest")
            return predicate
        listed[subject["name"]] = digest.get("sha256")
    present = contents.files.keys() - statement.UNLISTED
    for name in sorted(present - listed.keys()):
        state.refuse(7, f"{name!a} is in the bundle but not in the manifest")
    for name in sorted(str(one) for one in listed.keys() - present):
        state.refuse(7, f"{name!a} is in the manifest but not in the bundle")
    for name in sorted(present & listed.keys()):
        found = contents.files[name]
        if found.sha256 != listed[name] or found.size_bytes != sizes.get(name):
            state.refuse(8, f"{name!a} is not the file that was sealed")
    return predicate


def _journal(state: _State, data: bytes | None) -> tuple[tuple[Observation, ...], str]:
    """Obligations 9, 10 and 12."""
    if data is None:
        state.refuse(7, f"{JOURNAL_NAME} is missing")
        return (), ""
    try:
        reading = scan_journal(data)
    except JournalError as error:
        state.refuse(10 if error.chained else 9, str(error))
        return (), ""
    if reading.torn_bytes:
        state.refuse(9, "the journal's last line is cut short")
    problems = list(crosscheck.shape(reading.observations))
    state.problems.extend(problems)
    return (() if problems else reading.observations), reading.head


def _challenge(state: _State, observations: Sequence[Observation], nonce: str) -> None:
    """Obligation 20, as far as it is about the nonce that was asked for."""
    if statement.start_field(observations, "nonce") != nonce:
        state.refuse(20, "the run does not answer the nonce that was asked for")
        return
    wanted = str(seed(nonce))
    trained = [one for one in observations if one.kind == "child.start" and one.data.get("role") == "train"]
    for one in trained:
        argv = one.data.get("argv")
        words = [str(word) for word in argv] if isinstance(argv, list) else []
        if seeds_in(words) != {wanted}:
            state.refuse(20, f"the training was not started with --seed {wanted}, which follows from the nonce")


def _levels(state: _State, trust: Sequence[TrustedKey], *, answered: bool) -> None:
    """Obligation 21 and the level. Only a key that the verifier named lifts a bundle above A0."""
    if state.signer is None:
        return
    key = next((one for one in trust if one.public == state.signer), None)
    if key is None:
        if trust:
            state.refuse(21, f"it is signed by the key {state.signer}, which is none of those you trust")
        else:
            state.notes.append(f"Signed by the key {state.signer}, which you have not said you trust.")
        return
    state.notes.append(f"Signed by {key.name}, trusted up to {key.level.value}.")
    state.level = key.level
    if answered and key.level is Level.A1:
        state.level = Level.A2


def _clock_notes(state: _State, observations: Sequence[Observation]) -> None:
    """A wall clock that was set during the run is told, not refused: no duration rests on it."""
    offsets = [one.t_wall - one.t_mono for one in observations]
    spread_s = max(offsets) - min(offsets)
    if spread_s > 1.0:
        state.notes.append(f"The wall clock was changed by {spread_s:.1f} s during the run.")


def _report(state: _State, path: Path, required: Level | None) -> CheckReport:
    if state.problems:
        answer, outcome, level = Answer.REFUSED, Outcome.REFUTED, None
    elif state.simulated or (required is not None and state.level < required):
        answer, outcome, level = Answer.INSUFFICIENT, Outcome.UNKNOWN, state.level
    else:
        answer, level = Answer.ACCEPTED, state.level
        outcome = state.verdict.outcome if state.verdict is not None else Outcome.UNKNOWN
    words = ("It was simulated: nothing of it was observed on a real machine.",) if state.simulated else ()
    if level is not None:
        words = (*words, NOT_PROVEN[level], *_ALWAYS)
    return CheckReport(
        path=str(path),
        answer=answer,
        outcome=outcome,
        level=level,
        required=required,
        problems=tuple(state.problems),
        notes=tuple(state.notes),
        not_proven=words,
        run_id=state.run_id,
        simulated=state.simulated,
        verdict=state.verdict,
        claimed=state.claimed,
        signer=state.signer,
        manifest_sha256=state.manifest_sha256,
    )


def _required(require: str | None, trust: Sequence[TrustedKey]) -> Level | None:
    if require is None:
        return Level.A1 if trust else None
    try:
        return Level(require.upper())
    except ValueError:
        raise UsageError(
            f"{require[:40]!r} is not a level of evidence.", next_step="Ask for A0, A1, A2, A3 or A4 with --require."
        ) from None


def _predicate(value: Mapping[str, object]) -> Mapping[str, object]:
    predicate = value.get("predicate")
    return predicate if isinstance(predicate, dict) else {}


def _stated_signer(predicate: Mapping[str, object]) -> str | None:
    signer = predicate.get("signer")
    public = signer.get("public_key") if isinstance(signer, dict) else None
    return public if isinstance(public, str) and dsse.is_public_key(public) else None


def _difference(stated: object, verdict: Verdict) -> str:
    recomputed = statement.claimed(verdict)
    if isinstance(stated, dict):
        for name, value in recomputed.items():
            if stated.get(name) != value:
                return f"the manifest claims {name} {stated.get(name)!a}, the journal gives {value!a}"[:400]
    return "the manifest claims another verdict than the journal gives"
