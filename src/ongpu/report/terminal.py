"""Answers as text for people. Every function takes a value and returns a Rich renderable; nothing prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ongpu.domain.build import AxisVerdict, DecisionKind
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause, Outcome, Verdict, WitnessState

if TYPE_CHECKING:  # a command that shows one kind of answer must not wait for the rooms of all others
    from ongpu.doctor import DoctorReport
    from ongpu.enable import EnableReport
    from ongpu.install import InstallReport
    from ongpu.prove_run import RunReport
    from ongpu.smoke import SmokeReport

_STYLE = {
    Outcome.PROVEN: "bold green",
    Outcome.REFUTED: "bold red",
    Outcome.UNKNOWN: "bold yellow",
    WitnessState.CONFIRMED: "green",
    WitnessState.CONTRADICTED: "red",
    WitnessState.UNAVAILABLE: "yellow",
    WitnessState.ERROR: "yellow",
    AxisVerdict.FITS: "green",
    AxisVerdict.FITS_WITH_NOTE: "green",
    AxisVerdict.UNKNOWN: "yellow",
    AxisVerdict.REFUSES: "red",
    DecisionKind.PREBUILT: "bold green",
    DecisionKind.SOURCE: "bold yellow",
    DecisionKind.BLOCKED: "bold red",
}


def styled(word: Outcome | WitnessState | AxisVerdict | DecisionKind) -> Text:
    """One of the tool's answer words in its color."""
    return Text(str(word.value), style=_STYLE[word])


def grid(rows: Iterable[tuple[RenderableType, ...]], *, indent: int = 2) -> Table:
    """Aligned columns without lines; the last one folds."""
    table = Table.grid(padding=(0, 2, 0, 0))
    rows = list(rows)
    for index in range(max((len(row) for row in rows), default=0)):
        last = index == max(len(row) for row in rows) - 1
        table.add_column(overflow="fold", no_wrap=not last)
    for row in rows:
        table.add_row(*row)
    return table if not indent else _indented(table, indent)


def _indented(table: Table, indent: int) -> Table:
    outer = Table.grid()
    outer.add_column(width=indent)
    outer.add_column()
    outer.add_row("", table)
    return outer


def gibibytes(size_bytes: int | None) -> str:
    """``79.6 GiB``, or ``unknown``."""
    return "unknown" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"


def machine(value: Machine) -> RenderableType:
    """What ``probe`` shows."""
    rows: list[tuple[RenderableType, ...]] = []
    for device in value.devices:
        capability = device.compute_capability
        rows.append(
            (
                "GPU",
                Text(
                    f"{device.name}, compute capability {capability or 'unknown'}, {gibibytes(device.memory_bytes)}"
                    f"{', MIG on' if device.mig else ''}  {device.uuid or ''}"
                ),
            )
        )
    if not value.devices:
        rows.append(("GPU", Text("none visible", style="bold red")))
    driver = value.driver
    rows += [
        ("kernel-mode driver version", driver.kernel_mode or "unknown"),
        ("CUDA driver version", driver.cuda or "unknown"),
        ("kernel modules", str(driver.modules.value)),
        ("OS", f"{value.os_release or value.os}, {value.arch}, glibc {value.glibc or 'unknown'}"),
        ("WSL, container", f"{'WSL' if value.wsl else 'no'}, {value.container or 'none'}"),
        *(("Python", f"{one.version}{'t' if one.free_threaded else ''}  {one.path}") for one in value.pythons),
        *(("variable", Text(f"{name}={text!r}")) for name, text in value.variables),
        *(("could not be read", Text(f"{one.what}: {one.reason}", style="yellow")) for one in value.unavailable),
    ]
    title = "A described machine (nothing was read here)" if value.simulated else "This machine"
    return Group(Text(title, style="bold"), grid(rows))


_WEIGHT_STYLE = {"blocks": "bold red", "unknown": "yellow", "warns": "yellow", "notes": "dim"}


def smoke(report: SmokeReport) -> RenderableType:
    """What ``verify`` shows."""
    rows = [(styled(check.outcome), Text(check.name), Text(check.reason)) for check in report.checks]
    head = Text.assemble("Verdict: ", styled(report.outcome))
    if report.cause is not None:
        head.append(f"  cause: {report.cause.value}", style="red")
    return Group(head, grid(rows))


def doctor(report: DoctorReport) -> RenderableType:
    """One screen: the answer, the findings by weight, what to type."""
    head = Text.assemble(styled(report.outcome), f"  {report.summary}")
    if report.cause is not Cause.HEALTHY:
        head.append(f"  cause: {report.cause.value}", style="red")
    rows: list[tuple[RenderableType, ...]] = [
        ("", Text(f"{one.name} ({one.compute_capability or 'capability unknown'})"), Text(one.reason))
        for one in report.devices
    ]
    rows += [
        (Text(one.weight.value, _WEIGHT_STYLE[one.weight.value]), Text(one.title), Text(one.reason))
        for one in report.findings
    ]
    return Group(head, grid(rows), Text(f"Next: {report.next_step}"))


def install(report: InstallReport) -> RenderableType:
    """What ``install`` did, and what it did differently from what was asked."""
    title = "would install" if report.dry_run else ("kept" if report.reused else "installed")
    parts: list[RenderableType] = [
        Text.assemble(styled(report.outcome), f"  {report.reason}"),
        Text(f"  {title} {len(report.installed)} packages in {report.venv}{_to_download(report)}"),
    ]
    rows = [
        (Text(one.action), Text(one.name), Text(f"wanted by {', '.join(one.wanted_by) or 'the request'}: {one.reason}"))
        for one in (*report.excluded, *report.overridden)
    ]
    parts.append(grid(rows))
    parts += [Text(f"  {note}") for note in report.notes]
    parts += [Text(f"  problem: {problem}", style="red") for problem in report.problems]
    if not report.dry_run and report.outcome is Outcome.PROVEN:
        parts += [Text(f"  {one.where}: {one.command}") for one in report.activation]
    return Group(*parts)


def _to_download(report: InstallReport) -> str:
    if not report.dry_run or report.download_bytes is None:
        return ""
    return f": {report.download_bytes / 1e9:.2f} GB, less what uv's cache has"


def enabled(report: EnableReport) -> RenderableType:
    """How ``enable`` ended."""
    parts: list[RenderableType] = [Text("")]
    if report.blocked_in is not None:
        parts.append(
            Text.assemble(
                Text("Blocked", style="bold red"),
                f" in phase {report.blocked_in}, cause: ",
                Text(report.cause.value if report.cause else "undetermined", style="bold red"),
            )
        )
        parts.append(Text(f"  {report.reason}"))
        parts += [Text(f"  | {line}", style="dim") for line in report.lines]
    else:
        parts.append(verdict(report.verdict))
    parts += [Text(f"Evidence: {report.bundle}"), Text(f"Next: {report.next_step}")]
    return Group(*parts)


def verdict(value: Verdict) -> RenderableType:
    """A verdict with its claims and witnesses; a reason that several claims share is told once."""
    reason = value.reason
    for claim in value.claims:  # it is told in full beside the claim
        reason = reason.removesuffix(f": {claim.reason}")
    head = Text.assemble("Verdict: ", styled(value.outcome), f"  {reason}")
    if value.cause:
        head.append(f"  cause: {value.cause.value}", style="red")
    if value.simulated:
        mark = "REHEARSED: nothing here was observed on a GPU, and nothing is proven."
        shown = [claim.statement for claim in value.claims if claim.required]
        listed = grid((Text("unknown", _STYLE[Outcome.UNKNOWN]), Text(statement)) for statement in shown)
        return Group(head, Text(mark, style="bold yellow"), listed)
    told: set[str] = set()
    rows: list[tuple[RenderableType, ...]] = []
    for claim in value.claims:
        if claim.required or claim.outcome is not Outcome.UNKNOWN:
            reason = "for the same reason" if claim.reason in told else claim.reason
            told.add(claim.reason)
            rows.append((styled(claim.outcome), Text(claim.id), Text(f"{claim.statement}: {reason}")))
    witnesses = grid((Text(one.name), styled(one.state), Text(one.level), Text(one.reason)) for one in value.witnesses)
    return Group(head, grid(rows), witnesses)


def ran(report: RunReport) -> RenderableType:
    """How ``run`` ended, after the command's own output."""
    parts: list[RenderableType] = [verdict(report.verdict)]
    if report.failure is not None:
        parts.append(Text(f"{report.failure.message} Cause: {report.failure.cause}"))
        parts += [Text(f"  | {line}", style="dim") for line in report.failure.lines]
    return Group(*parts, Text(f"Evidence: {report.bundle}"), Text(f"Next: {report.next_step}"))
