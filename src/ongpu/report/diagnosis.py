"""The answer of ``ongpu diagnose``: its document, and its text for terminals."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from ongpu.diagnose import Facts, Finding, Rejected, Sure
from ongpu.domain.build import Axis, Decision, DecisionKind
from ongpu.domain.verdict import Cause
from ongpu.explain import Block, BundleCase, Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvisedBuild:
    """The build that would fit what the log names, and what a person would type. Nothing was installed."""

    decision: DecisionKind
    torch: str | None
    cuda_tag: str | None
    command: tuple[str, ...]
    assumptions: tuple[str, ...]
    next_step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseDocument:
    """The cause a log names, and what the planner says of the facts in it.

    ``findings`` are the lines it rests on, in ``source`` (a file's name, ``-``, or a file of the bundle);
    ``rejected`` the competing causes with the reason against each; ``question`` what would decide it where the log
    cannot tell. ``at_odds`` are the axes on which the build that the log names fails the machine that it names;
    ``advised`` the build that would fit (null where the build is not what is wrong); ``unasked`` what the log did
    not name. ``block`` and ``not_tried`` are of a bundle. ``unread_lines`` counts lines in the midst of a huge log that
    were not looked at.
    """

    cause: Cause
    sure: Sure
    reason: str
    source: str
    findings: tuple[Finding, ...]
    rejected: tuple[Rejected, ...]
    next_step: str
    question: str | None
    facts: Facts
    at_odds: tuple[Axis, ...]
    advised: AdvisedBuild | None
    unasked: tuple[str, ...]
    block: Block | None
    not_tried: tuple[str, ...]
    unread_lines: int


def diagnose_document(told: Explanation, *, source: str, case: BundleCase | None = None) -> DiagnoseDocument:
    """The document of a log, or of a bundle where ``case`` is given."""
    found = told.diagnosis
    return DiagnoseDocument(
        cause=found.cause,
        sure=found.sure,
        reason=found.reason,
        source=source,
        findings=found.findings,
        rejected=found.rejected,
        next_step=found.next_step,
        question=found.question,
        facts=found.facts,
        at_odds=told.at_odds,
        advised=_advised(told.remedy),
        unasked=told.unasked,
        block=case.block if case else None,
        not_tried=case.not_tried if case else (),
        unread_lines=found.unread_lines,
    )


def _advised(decision: Decision | None) -> AdvisedBuild | None:
    if decision is None:
        return None
    return AdvisedBuild(
        decision=decision.decision,
        torch=decision.torch,
        cuda_tag=decision.cuda_tag,
        command=decision.command,
        assumptions=decision.assumptions,
        next_step=decision.next_step,
    )


def advice_text(advised: AdvisedBuild) -> str:
    """One sentence on the build that would fit."""
    if advised.decision is DecisionKind.PREBUILT and advised.torch:
        return f"torch {advised.torch}+{advised.cuda_tag} fits what the log names: {shlex.join(advised.command)}"
    return f"No published build fits what the log names ({advised.decision.value}): {advised.next_step}"


def diagnosis_text(value: DiagnoseDocument) -> RenderableType:
    """What ``diagnose`` shows: the cause, the lines it rests on, what else it could have been, what is at odds."""
    parts: list[RenderableType] = [
        Text.assemble("Cause: ", Text(value.cause.value, "bold"), f"  ({value.sure.value})  {value.reason}")
    ]
    where = "line" if value.block is None else f"{value.source} line"
    parts += [Text(f"  {where} {one.line}: {one.text}") for one in value.findings]
    parts += [Text(f"  at odds: {one.axis}: {one.reason}", style="red") for one in value.at_odds]
    parts += [Text(f"  not {one.cause.value}: {one.reason}", style="dim") for one in value.rejected]
    if value.advised is not None:
        parts.append(Text(f"A build: {advice_text(value.advised)}"))
        parts += [Text(f"  assumed: {one}", style="yellow") for one in value.advised.assumptions]
    parts += [Text(f"  not tried: {one}", style="dim") for one in value.not_tried]
    if value.unread_lines:
        parts.append(Text(f"  {value.unread_lines} lines in the midst, each unlike the others, were not looked at"))
    if value.question:
        parts.append(Text(f"What would decide it: {value.question}"))
    parts.append(Text(f"Next: {value.next_step}"))
    return Group(*parts)
