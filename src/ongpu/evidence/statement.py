"""The manifest: an in-toto Statement v1 that follows from the journal and the files, byte for byte.

Nothing in it is free text. Whoever has the observations, the files' digests and the signer's public key can
write the same bytes again, and the checker does: a manifest that says anything else is refused, whichever
byte differs. Times are whole microseconds and there are no floats, so that another language can do the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ongpu.domain.verdict import Outcome, Verdict
from ongpu.domain.witness import Observation

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:ongpu:run:v1"
MANIFEST_NAME: Final = "manifest.json"
ENVELOPE_NAME: Final = "manifest.dsse.json"
JOURNAL_NAME: Final = "journal.jsonl"
# A manifest cannot list itself or the signature over itself.
UNLISTED: Final = frozenset({MANIFEST_NAME, ENVELOPE_NAME})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """One file of a bundle: its size and the SHA-256 of its bytes (64 hexadecimal digits)."""

    size_bytes: int
    sha256: str


def render(
    *,
    observations: Sequence[Observation],
    head: str,
    files: Mapping[str, FileDigest],
    verdict: Verdict,
    signer: str | None,
) -> bytes:
    """The bytes of ``manifest.json``.

    :param head: the chain value of the journal's last line.
    :param files: every file of the bundle but the manifest and its envelope.
    :param signer: the Ed25519 public key that signs it (64 hexadecimal digits), or ``None``.
    """
    listed = sorted(name for name in files if name not in UNLISTED)
    start, end = observations[0], observations[-1]
    predicate = {
        "run_id": start_field(observations, "run_id"),
        "profile": start_field(observations, "profile"),
        "simulated": is_simulated(observations) or verdict.simulated,
        "tool_version": start_field(observations, "tool_version"),
        "nonce": start_field(observations, "nonce"),
        "started_us": round(start.t_wall * 1_000_000),
        "duration_us": round((end.t_mono - start.t_mono) * 1_000_000),
        "ended": how_it_ended(observations),
        "journal": {"name": JOURNAL_NAME, "records": len(observations), "head": head},
        "sizes": {name: files[name].size_bytes for name in listed},
        "verdict": claimed(verdict),
        "level": "A0" if signer is None else "A1",
        "signer": None if signer is None else {"algorithm": "ed25519", "public_key": signer},
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": files[name].sha256}} for name in listed],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return canonical(statement)


def claimed(verdict: Verdict) -> dict[str, object]:
    """A verdict as the manifest states it: every answer, no prose."""
    return {
        "outcome": verdict.outcome.value,
        "level": verdict.level,
        "cause": None if verdict.cause is None else verdict.cause.value,
        "claims": [{"id": one.id, "required": one.required, "outcome": one.outcome.value} for one in verdict.claims],
        "witnesses": [{"name": one.name, "level": one.level, "state": one.state.value} for one in verdict.witnesses],
    }


def canonical(value: object) -> bytes:
    """The one way a file of this format is written: sorted keys, one space of indent, ASCII, a final newline."""
    return (json.dumps(value, allow_nan=False, ensure_ascii=True, indent=1, sort_keys=True) + "\n").encode("ascii")


def start_field(observations: Sequence[Observation], name: str) -> str | None:
    """A text of the first record; ``None`` where it has none."""
    value = observations[0].data.get(name)
    return value if isinstance(value, str) else None


def is_simulated(observations: Sequence[Observation]) -> bool:
    """Whether any record says that something was simulated. Only an explicit ``false`` at the start says no."""
    said = [one.data.get("simulated") for one in observations]
    return said[0] is not False or any(not (value is None or value is False) for value in said)


def how_it_ended(observations: Sequence[Observation]) -> str:
    """``completed``, ``failed``, ``interrupted`` or ``blocked``; a recovered run was interrupted whatever it says."""
    last = observations[-1]
    ended = last.data.get("end") if last.kind == "run.end" else None
    return ended if isinstance(ended, str) and ended in {"completed", "failed", "blocked"} else "interrupted"


def capped(verdict: Verdict, observations: Sequence[Observation]) -> Verdict:
    """``verdict``, never proven for a run that did not complete or was simulated.

    The judge has these rules as well. They stand here again because a false proof costs more than ten lines.
    """
    if verdict.outcome is not Outcome.PROVEN:
        return verdict
    if is_simulated(observations):
        reason = "simulated: nothing of it was observed on a real machine"
    elif how_it_ended(observations) != "completed":
        reason = f"the run did not complete: it ended {how_it_ended(observations)}"
    else:
        return verdict
    return Verdict(
        outcome=Outcome.UNKNOWN,
        reason=reason,
        claims=verdict.claims,
        witnesses=verdict.witnesses,
        level=verdict.level,
        cause=verdict.cause,
        simulated=is_simulated(observations),
    )
