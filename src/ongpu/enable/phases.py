"""The phases before the training: probe, plan, install, scan, smoke. Each returns what the next one needs."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from ongpu import environment, plan, probe, scan, smoke
from ongpu import install as installer
from ongpu.domain.arch import RuntimeVersion
from ongpu.domain.blocked import diagnose_blocked
from ongpu.domain.build import Decision, DecisionKind
from ongpu.domain.coverage import CodeVerdict
from ongpu.domain.environment import Environment
from ongpu.domain.gpu_name import same_gpu
from ongpu.domain.machine import Device, Machine
from ongpu.domain.verdict import Cause, Outcome
from ongpu.domain.visible import visible_devices
from ongpu.enable.command import is_milestone
from ongpu.enable.request import EnableRequest, PhaseOutcome
from ongpu.enable.road import Step
from ongpu.errors import BlockedError, DoorError
from ongpu.machine.nvml import Nvml
from ongpu.proof.bundle import Bundle
from ongpu.proof.doors import Doors


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every phase is handed."""

    request: EnableRequest
    doors: Doors
    bundle: Bundle
    described: Machine | None
    adopted: Path | None
    python_version: str

    @property
    def rehearsed(self) -> bool:
        """Whether the machine is a described one."""
        return self.described is not None


def probe_phase(context: Context) -> Step[Machine]:
    """Read the machine; stop where nothing can use a GPU."""
    if context.described is not None:
        context.bundle.value("machine", context.described)
        names = ", ".join(device.name for device in context.described.devices)
        summary = f"described, not read: {names} on {context.described.os} {context.described.arch}"
        return Step(value=context.described, summary=summary, outcome=PhaseOutcome.REHEARSED)
    doors = context.doors
    machine = probe.probe(
        nvml=doors.nvml, processes=doors.processes, host=doors.host, python=context.adopted, list_pythons=False
    )
    context.bundle.value("machine", machine)
    blocked = diagnose_blocked(machine)
    if blocked is not None:
        raise BlockedError(blocked.reason, next_step=blocked.next_step, cause=blocked.cause.value, lines=blocked.lines)
    seen = "; ".join(
        f"{device.name}, compute capability {device.compute_capability or 'unknown'}"
        for device in visible_devices(machine).devices
    )
    return Step(value=machine, summary=f"{seen}; kernel-mode driver version {machine.driver.kernel_mode or 'unknown'}")


def plan_phase(context: Context, machine: Machine) -> Step[Decision]:
    """Choose the build; an adopted environment is judged by what it holds, so there the plan only advises."""
    wanted = plan.Request(
        torch_spec=context.request.torch_spec or _asked_of_torch(context),
        channel=context.request.channel,
        python=context.python_version,
    )
    decision = plan.plan(machine, catalog=context.doors.catalog(), request=wanted)
    context.bundle.value("plan", decision)
    if decision.decision is DecisionKind.PREBUILT:
        return Step(value=decision, summary=f"torch {decision.torch}+{decision.cuda_tag} from {_index(decision)}")
    worst = next((axis for axis in decision.axes if axis.cause is decision.cause), None)
    reason = worst.reason if worst is not None else decision.next_step
    if context.adopted is not None or context.rehearsed:
        return Step(value=decision, summary=f"no build fits: {reason}", outcome=PhaseOutcome.NOTED)
    what = (
        "Only a build from source fits this machine, which is never started unasked"
        if decision.decision is DecisionKind.SOURCE
        else "No PyTorch build runs on this machine"
    )
    raise BlockedError(
        f"{what}: {reason}",
        next_step=decision.next_step,
        cause=(decision.cause or Cause.UNDETERMINED).value,
        lines=tuple(f"{axis.axis}: {axis.verdict.value}: {axis.reason}" for axis in decision.axes),
    )


def _project(context: Context) -> tuple[Path | None, str | None]:
    """The project that goes in and its extra: the one that was named, or the milestone's own."""
    request, cwd = context.request, context.doors.cwd
    if request.project is None and is_milestone(cwd):
        return cwd, request.extra or "training"
    return request.project, request.extra


def _asked_of_torch(context: Context) -> str | None:
    """What the project that will be installed asks of torch: choosing without it would only contradict it later."""
    project, extra = _project(context)
    if project is None or context.adopted is not None or context.rehearsed:
        return None
    asked = installer.read_project(context.doors.cwd / project, extra=extra)
    return asked.requirement_of("torch", markers=installer.markers_for(None, python=context.python_version))


def _index(decision: Decision) -> str:
    return decision.index_url or "PyPI"


def install_phase(context: Context, decision: Decision, on_output: Callable[[bytes], None]) -> Step[Environment]:
    """Make the environment, or read the one that was adopted."""
    if context.rehearsed or context.adopted is not None:
        return _adopt(context, decision)
    request, doors = context.request, context.doors
    project, extra = _project(context)
    report = installer.install(
        installer.InstallRequest(
            decision=decision,
            venv=doors.cwd / request.venv,
            project=project,
            extra=extra,
            requirements=() if project or request.command else training_requirements(),
            index_url=request.index_url,
            find_links=request.find_links,
            allow=request.allow,
        ),
        processes=doors.processes,
        environment=doors.host.environment(),
        read=lambda python: environment.read_environment(python, processes=doors.processes),
        on_output=on_output,
    )
    context.bundle.value("install", report)
    if report.log is not None:
        context.bundle.text("install_log.txt", Path(report.log).read_text("utf-8", "replace"))
    if report.outcome is not Outcome.PROVEN or report.environment is None:
        raise BlockedError(
            report.reason,
            next_step=_read_install_log(context) if report.log is not None else "Mend that, then run it again.",
            cause=(report.cause or Cause.PYTHON_ENV).value,
            lines=report.problems,
        )
    context.bundle.value("environment", report.environment)
    kept = "kept, complete and matching" if report.reused else f"{len(report.installed)} packages"
    changes = f", {len(report.excluded)} excluded, {len(report.overridden)} overridden"
    return Step(value=report.environment, summary=f"{report.venv}: {kept}{changes}")


def _read_install_log(context: Context) -> str:
    return f"Read {context.bundle.folder / 'install_log.txt'}; the old state was left as it was."


def _adopt(context: Context, decision: Decision) -> Step[Environment]:
    assert context.adopted is not None
    found = environment.read_environment(context.adopted, processes=context.doors.processes)
    context.bundle.value("environment", found)
    version = found.torch.version if found.torch else "none"
    if found.torch is None:
        rehearsing = "A rehearsal trains on the CPU: name a Python that has torch with --python."
        raise BlockedError(
            f"There is no torch in the environment of {context.adopted}.",
            next_step=rehearsing if context.rehearsed else _install_hint(decision),
            cause=Cause.PYTHON_ENV.value,
            lines=found.problems,
        )
    if context.rehearsed:
        planned = f"planned, not carried out: {shlex.join(decision.command)}" if decision.command else "nothing planned"
        return Step(value=found, summary=f"{planned}; rehearsing with torch {version}", outcome=PhaseOutcome.REHEARSED)
    if found.torch.cpu_only:
        raise BlockedError(
            f"The torch in the environment of {context.adopted} is a CPU-only build ({version}).",
            next_step=_install_hint(decision),
            cause=Cause.CPU_ONLY_TORCH.value,
            lines=(f"{found.torch.path}: version {version}, no CUDA",),
        )
    summary = f"adopted {context.adopted}: torch {version}, CUDA runtime version {found.torch.runtime or 'unknown'}"
    return Step(value=found, summary=summary)


def _install_hint(decision: Decision) -> str:
    if decision.command:
        return (
            f"Let `ongpu enable` make a fresh environment (leave out --python), or type: {shlex.join(decision.command)}"
        )
    return decision.next_step


def scan_phase(context: Context, machine: Machine, found: Environment) -> Step[None]:
    """Read torch's own libraries for every GPU that the training may use."""
    devices = [device for device in visible_devices(machine).devices if device.compute_capability]
    if found.torch is None or not devices:
        outcome = PhaseOutcome.REHEARSED if context.rehearsed else PhaseOutcome.UNKNOWN
        return Step(value=None, summary="nothing to read: no torch, or no compute capability known", outcome=outcome)
    reasons: list[str] = []
    outcome = PhaseOutcome.DONE
    for device in devices:
        assert device.compute_capability is not None
        coverage = scan.torch_coverage(
            Path(found.torch.path), device.compute_capability, driver_cuda=_driver_cuda(machine)
        )
        context.bundle.value("scan", coverage)
        reasons.append(coverage.reason)
        if context.rehearsed:
            outcome = PhaseOutcome.REHEARSED
        elif coverage.verdict in (CodeVerdict.NONE, CodeVerdict.NO_CODE):
            raise BlockedError(
                f"{device.name} ({device.compute_capability}): {coverage.reason}.",
                next_step="Let `ongpu enable` make a fresh environment (leave out --python): "
                "`ongpu plan` names the build that has code for this GPU.",
                cause=(coverage.cause or Cause.WHEEL_NO_ARCH).value,
                lines=tuple(f"{fit.path}: {fit.reason}" for fit in coverage.binaries),
            )
        elif coverage.verdict not in (CodeVerdict.NATIVE, CodeVerdict.JIT):
            outcome = PhaseOutcome.NOTED
    return Step(value=None, summary="; ".join(dict.fromkeys(reasons)), outcome=outcome)


def _driver_cuda(machine: Machine) -> RuntimeVersion | None:
    try:
        return RuntimeVersion.parse(machine.driver.cuda) if machine.driver.cuda else None
    except ValueError:
        return None


def choose_device(machine: Machine, expect_gpu: str | None) -> Device | None:
    """The GPU to enable: the expected model where one is visible, else the first visible."""
    devices = visible_devices(machine).devices
    for device in devices if expect_gpu else ():
        assert expect_gpu is not None
        match = same_gpu(expect_gpu, name=device.name, uuid=device.uuid, memory_bytes=device.memory_bytes)
        if match.outcome is Outcome.PROVEN:
            return device
    return devices[0] if devices else None


def smoke_phase(
    context: Context, found: Environment, device: Device | None, variables: Mapping[str, str]
) -> Step[None]:
    """The checks on the GPU; every one recorded, the first that is not right stops the road."""
    nvml = _open_nvml(context)
    try:
        report = smoke.run_smoke(
            python=Path(found.python.path),
            uuid=device.uuid if device and not context.rehearsed else None,
            nvml=nvml,
            processes=context.doors.processes,
            environment=variables,
        )
    finally:
        if nvml is not None:
            nvml.close()
    for check in report.checks:
        context.bundle.value("smoke", check)
    if report.torch is not None:
        context.bundle.value("torch", report.torch)
    for name, text in report.texts.items():
        context.bundle.text(name, text)
    words = "; ".join(f"{check.name} {check.outcome.value}" for check in report.checks)
    if context.rehearsed:
        return Step(value=None, summary=f"on this machine: {words}", outcome=PhaseOutcome.REHEARSED)
    wrong = next((check for check in report.checks if check.required and _stops(check)), None)
    if wrong is not None:
        raise BlockedError(
            f"{wrong.name} is {wrong.outcome.value}: {wrong.reason}",
            next_step=f"Read what torch said: ongpu diagnose {context.bundle.folder / 'torch_cuda_check.txt'}",
            cause=(wrong.cause or Cause.UNDETERMINED).value,
            lines=wrong.lines,
        )
    outcome = PhaseOutcome.DONE if report.outcome is Outcome.PROVEN else PhaseOutcome.NOTED
    return Step(value=None, summary=words, outcome=outcome)


def _stops(check: smoke.SmokeCheck) -> bool:
    """Whether a check that is not proven ends the road. Memory that cannot be read (WDDM) is left to the witnesses."""
    if check.name == "process-memory":
        return check.outcome is Outcome.REFUTED
    return check.outcome is not Outcome.PROVEN


def _open_nvml(context: Context) -> Nvml | None:
    if context.rehearsed:
        return None
    try:
        return context.doors.nvml()
    except DoorError:
        return None  # the probe has recorded why; the check that needs it is unknown without it


def training_requirements() -> tuple[str, ...]:
    """What the reference training needs beside torch, as ongpu's own metadata states it."""
    stated = importlib.metadata.requires("ongpu") or []
    parsed = [Requirement(line) for line in stated]
    extra = [one for one in parsed if one.marker is not None and one.marker.evaluate({"extra": "training"})]
    plainly = [one for one in extra if not one.marker or not one.marker.evaluate({"extra": ""})]
    return tuple(f"{one.name}{one.specifier}" for one in plainly if one.name != "torch")
