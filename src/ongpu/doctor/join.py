"""Joining machine, environment and device code into one answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ongpu.catalog import Catalog
from ongpu.doctor.machine_rules import machine_findings, variable_findings
from ongpu.doctor.package_rules import extension_findings, library_findings, packages_for
from ongpu.doctor.path_rules import path_findings
from ongpu.doctor.report import DeviceReport, DoctorReport, Finding, InstalledCode, Weight
from ongpu.doctor.torch_rules import Advice, code_findings, driver_serves, known_python, torch_code, torch_presence
from ongpu.domain.build import Decision
from ongpu.domain.coverage import CodeVerdict
from ongpu.domain.environment import Environment
from ongpu.domain.machine import Machine
from ongpu.domain.verdict import Cause, Outcome
from ongpu.domain.visible import visible_devices
from ongpu.plan import Request, plan
from ongpu.plan.facts import gather
from ongpu.scan.torchlib import main_targets

if TYPE_CHECKING:  # the room itself is imported by `--deep` alone
    from ongpu.smoke.model import SmokeCheck

_ORDER = tuple(Weight)


def doctor(machine: Machine, environment: Environment, code: InstalledCode, *, catalog: Catalog) -> DoctorReport:
    """Join what the machine is, what the environment holds, and what its files carry.

    :param machine: as ``probe`` read it (its variables decide which GPUs are seen).
    :param code: as :func:`read_code` read it.
    """
    seen = visible_devices(machine).devices
    facts = gather(machine, catalog=catalog, request=Request())
    decision = _decide(machine, environment, catalog=catalog)
    advice = Advice.of(decision)
    reports, coverages = torch_code(machine, environment, code, seen, catalog=catalog)
    capabilities = [one.compute_capability for one in reports if one.compute_capability is not None]
    packages = packages_for(environment, code, capabilities, driver_cuda=facts.driver_cuda)
    of_machine = list(machine_findings(machine, decision))
    findings = [
        *of_machine,
        *torch_presence(environment, advice),
        # A torch without code stays without it under any driver, so that comes first.
        *code_findings(environment, reports, coverages, advice),
        # Where no GPU can be used at all, the driver's version is not the question.
        *(driver_serves(machine, environment, coverages, advice, catalog=catalog) if not _blocked(of_machine) else ()),
        *extension_findings(environment, packages),
        *library_findings(environment, machine),
        *variable_findings(machine, coverages),
        *_environment_findings(environment, code),
        *path_findings(environment, code),
        *_unseen(machine, reports),
    ]
    findings.sort(key=lambda one: _ORDER.index(one.weight))
    outcome, cause = _outcome(findings)
    torch = environment.torch
    return DoctorReport(
        outcome=outcome,
        cause=cause,
        summary=_summary(outcome, findings, reports, environment),
        next_step=_next_step(outcome, findings, environment.python.path),
        findings=tuple(findings),
        devices=reports,
        packages=packages,
        python=environment.python.path,
        environment=environment.prefix,
        torch=torch.version if torch else None,
        cuda_tag=torch.cuda_tag if torch else None,
        cuda_runtime=str(torch.runtime) if torch and torch.runtime else None,
        targets=main_targets(code.torch),
        driver=machine.driver.kernel_mode,
        driver_cuda=str(facts.driver_cuda) if facts.driver_cuda else None,
        deep=code.packages.deep if code.packages is not None else False,
        simulated=machine.simulated,
    )


def with_smoke(report: DoctorReport, checks: Sequence[SmokeCheck]) -> DoctorReport:
    """The same report after the checks on the GPU were run: what was read is joined by what was seen."""
    weights = {Outcome.REFUTED: Weight.BLOCKS, Outcome.UNKNOWN: Weight.UNKNOWN, Outcome.PROVEN: Weight.NOTES}
    run = [
        Finding(
            weight=weights[one.outcome] if one.required else Weight.NOTES,
            cause=one.cause,
            title=f"check {one.name}: {one.outcome.value}",
            reason=one.reason,
            next_step=None
            if one.outcome is Outcome.PROVEN
            else f"Look at all of it: ongpu verify --python {report.python}",
            lines=one.lines,
        )
        for one in checks
    ]
    findings = sorted([*report.findings, *run], key=lambda one: _ORDER.index(one.weight))
    outcome, cause = _outcome(findings)
    healthy = outcome is Outcome.PROVEN
    return replace(
        report,
        findings=tuple(findings),
        outcome=outcome,
        cause=cause,
        summary=f"{report.summary} It computed on it, and rightly." if healthy and run else _title(findings[0]),
        next_step="Train under guard: ongpu run -- COMMAND"
        if healthy
        else _next_step(outcome, findings, report.python),
    )


def _decide(machine: Machine, environment: Environment, *, catalog: Catalog) -> Decision | None:
    """What would fit this machine, with the environment's own Python where a build serves it."""
    if not machine.devices:
        return None
    return plan(machine, catalog=catalog, request=Request(python=known_python(environment)))


def _environment_findings(environment: Environment, code: InstalledCode) -> list[Finding]:
    found = [
        Finding(weight=Weight.WARNS, cause=Cause.PYTHON_ENV, title="the environment is damaged", reason=f"{text}.")
        for text in environment.problems
    ]
    if len(code.torch_folders) > 1:
        found.append(
            Finding(
                weight=Weight.WARNS,
                cause=Cause.PYTHON_ENV,
                title="two torches are on the path",
                reason=f"{code.torch_folders[0]} is imported, and hides {', '.join(code.torch_folders[1:])}.",
                next_step="Uninstall one of them.",
            )
        )
    return found


def _unseen(machine: Machine, reports: Sequence[DeviceReport]) -> list[Finding]:
    unknown = [one.name for one in reports if one.compute_capability is None]
    if not unknown or machine.simulated:
        return []
    return [
        Finding(
            weight=Weight.UNKNOWN,
            cause=Cause.UNDETERMINED,
            title="the GPU is not known",
            reason=f"neither the driver nor the catalog says the compute capability of {', '.join(unknown)}.",
            next_step="Update the driver, or look the GPU up at NVIDIA and ask with --compute-capability.",
        )
    ]


def _blocked(findings: Sequence[Finding]) -> bool:
    return any(one.weight is Weight.BLOCKS for one in findings)


def _outcome(findings: Sequence[Finding]) -> tuple[Outcome, Cause]:
    first = next((one for one in findings if one.weight is Weight.BLOCKS), None)
    if first is not None:
        return Outcome.REFUTED, first.cause or Cause.UNDETERMINED
    if any(one.weight is Weight.UNKNOWN for one in findings):
        return Outcome.UNKNOWN, Cause.UNDETERMINED
    return Outcome.PROVEN, Cause.HEALTHY


def _summary(
    outcome: Outcome, findings: Sequence[Finding], reports: Sequence[DeviceReport], environment: Environment
) -> str:
    torch = environment.torch.version if environment.torch else None
    names = ", ".join(dict.fromkeys(one.name for one in reports)) or "no GPU"
    if outcome is Outcome.PROVEN:
        jit = any(one.torch is CodeVerdict.JIT for one in reports)
        how = "PTX that the driver compiles" if jit else "machine code"
        return f"torch {torch} has {how} for {names}, and the driver serves it."
    return _title(findings[0])


def _title(finding: Finding) -> str:
    title = finding.title if finding.title.startswith("torch") else f"{finding.title[0].upper()}{finding.title[1:]}"
    return f"{title}."


def _next_step(outcome: Outcome, findings: Sequence[Finding], python: str) -> str:
    if outcome is not Outcome.PROVEN:
        step = next((one.next_step for one in findings if one.next_step), None)
        return step or "Read the findings."
    return f"Prove it on the GPU: ongpu verify --python {python}"
