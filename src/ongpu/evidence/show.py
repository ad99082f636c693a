"""What a checked bundle says, as plain text: the recomputed verdict, never the prose of the bundle."""

from __future__ import annotations

import unicodedata
from typing import Final

from ongpu.evidence.check import Answer, CheckReport
from ongpu.evidence.obligations import OBLIGATIONS

_MAX_TEXT: Final = 400
_HEADINGS: Final = {
    Answer.ACCEPTED: "Accepted: the bundle is intact, and its verdict is what its observations give.",
    Answer.REFUSED: "Refused.",
    Answer.INSUFFICIENT: "Not sufficient.",
}


def visible(text: str) -> str:
    """``text`` on one line with every control, bidirectional, invisible or unassigned character spelled out."""
    shown = "".join(
        letter if letter.isascii() and letter.isprintable() else _spelled(letter) for letter in text[:_MAX_TEXT]
    )
    return shown if len(text) <= _MAX_TEXT else f"{shown} ... ({len(text)} characters)"


def _spelled(letter: str) -> str:
    # Letters, marks, numbers, punctuation and symbols of any script stand as they are; C* and Z* do not.
    return letter if unicodedata.category(letter)[0] in "LMNPS" else f"<U+{ord(letter):04X}>"


def render(report: CheckReport) -> str:
    """Plain text of a check, a line for each problem, claim and witness; ends with a newline."""
    lines = [_HEADINGS[report.answer]]
    if report.run_id is not None:
        lines.append(f"Run {visible(report.run_id)}")
    if report.level is not None:
        asked = "" if report.required is None else f" ({report.required.value} was asked for)"
        lines.append(f"Level {report.level.value}{asked}")
    for problem in report.problems:
        lines.append(f"  problem {problem.obligation}: {visible(problem.text)}")
        lines.append(f"    obligation {problem.obligation}: {OBLIGATIONS[problem.obligation]}")
    if report.verdict is not None and not report.problems:
        verdict = report.verdict
        lines.append(f"Verdict: {verdict.outcome.value}. {visible(verdict.reason)}")
        for claim in verdict.claims:
            beside = "" if claim.required else " (beside the verdict)"
            lines.append(f"  {claim.outcome.value:8} {visible(claim.id)}{beside}: {visible(claim.statement)}")
            lines.append(f"           {visible(claim.reason)}{_records(claim.observations)}")
        for witness in verdict.witnesses:
            lines.append(
                f"  {witness.name} {witness.state.value} ({visible(witness.level)} level): {visible(witness.title)}"
            )
            lines.append(f"           {visible(witness.reason)}{_records(witness.observations)}")
    lines.extend(visible(note) for note in report.notes)
    if report.not_proven:
        lines.append("What this does not prove:")
        lines.extend(f"  - {visible(words)}" for words in report.not_proven)
    return "\n".join(lines) + "\n"


def _records(observations: tuple[int, ...]) -> str:
    if not observations:
        return ""
    shown = ", ".join(str(seq) for seq in observations[:8])
    return f" [records {shown}{', ...' if len(observations) > 8 else ''}]"
