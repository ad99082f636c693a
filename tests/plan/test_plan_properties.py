"""What must hold of every decision, whatever the machine."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ongpu import catalog
from ongpu.domain.arch import ComputeCapability, Fit
from ongpu.domain.build import AxisVerdict, Decision, DecisionKind
from ongpu.domain.machine import Device, Driver, Machine, Modules, PythonInstall
from ongpu.domain.plain import plain
from ongpu.domain.verdict import Cause
from ongpu.errors import UsageError
from ongpu.plan import Request, judge_command, plan

CATALOG = catalog.load()
CAPABILITIES = [str(one.compute_capability) for one in CATALOG.generations]
DRIVERS = [
    "418.40",
    "450.80.02",
    "470.256.02",
    "525.60.13",
    "550.144.03",
    "570.124.06",
    "580.95.05",
    "595.71",
    "615.20",
]
PYTHONS = ["3.8", "3.9", "3.10", "3.12", "3.13", "3.13t", "3.14", "3.15", "3.16"]
SPECS = [None, "torch==2.6.0", "torch>=2.8", "torch<2.9", "torch==2.9.1", "torch>=2.14"]


def device(capability: str) -> Device:
    return Device(name=f"a {capability}", compute_capability=ComputeCapability.parse(capability))


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    system, arch = draw(st.sampled_from([("linux", "x86_64"), ("windows", "x86_64"), ("linux", "aarch64")]))
    python = draw(st.sampled_from(PYTHONS))
    return Machine(
        os=system,
        arch=arch,
        glibc=draw(st.sampled_from([None, "2.17", "2.27", "2.35"])) if system == "linux" else None,
        python=PythonInstall(path="python", version=python.removesuffix("t"), free_threaded=python.endswith("t")),
        devices=tuple(device(one) for one in draw(st.lists(st.sampled_from(CAPABILITIES), min_size=1, max_size=3))),
        driver=Driver(
            kernel_mode=draw(st.sampled_from([*DRIVERS, None])), modules=draw(st.sampled_from(list(Modules)))
        ),
        simulated=draw(st.booleans()),
    )


def decide(machine: Machine, spec: str | None = None, channel: str = "stable") -> Decision:
    return plan(machine, catalog=CATALOG, request=Request(torch_spec=spec, channel=channel))


@given(machine=machines(), spec=st.sampled_from(SPECS), channel=st.sampled_from(["stable", "nightly", "any"]))
@settings(max_examples=300, deadline=None)
def test_every_decision_is_whole_and_never_cpu(machine: Machine, spec: str | None, channel: str) -> None:
    decision = decide(machine, spec, channel)
    assert decision.next_step
    assert decision.cuda_tag != "cpu"
    assert "cpu" not in " ".join(decision.command)
    assert decision.axes
    assert all(one.reason and one.source for one in decision.axes)
    assert plain(decision)
    match decision.decision:
        case DecisionKind.PREBUILT:
            assert decision.cause is None
            assert AxisVerdict.REFUSES not in {one.verdict for one in decision.axes}
            assert len(decision.fit) == len(machine.devices)
            assert Fit.NONE not in {one.fit for one in decision.fit}
            assert decision.torch and decision.command
        case DecisionKind.SOURCE:
            assert decision.recipe
            assert decision.cause is Cause.WHEEL_NO_ARCH
        case DecisionKind.BLOCKED:
            assert decision.cause is not None
            assert decision.cause is not Cause.HEALTHY
            assert not decision.command
            assert {AxisVerdict.REFUSES, AxisVerdict.UNKNOWN} & {one.verdict for one in decision.axes}


@given(machine=machines(), more=st.sampled_from(CAPABILITIES))
@settings(max_examples=200, deadline=None)
def test_another_gpu_never_makes_a_decision_possible(machine: Machine, more: str) -> None:
    wider = dataclasses.replace(machine, devices=(*machine.devices, device(more)))
    if decide(wider).decision is DecisionKind.PREBUILT:
        assert decide(machine).decision is DecisionKind.PREBUILT


@given(machine=machines(), pair=st.lists(st.sampled_from(DRIVERS), min_size=2, max_size=2, unique=True))
@settings(max_examples=200, deadline=None)
def test_a_newer_driver_takes_nothing_away_but_a_dropped_generation(machine: Machine, pair: list[str]) -> None:
    old, new = sorted(pair, key=lambda one: [int(part) for part in one.split(".")])
    before = decide(dataclasses.replace(machine, driver=dataclasses.replace(machine.driver, kernel_mode=old)))
    after = decide(dataclasses.replace(machine, driver=dataclasses.replace(machine.driver, kernel_mode=new)))
    if before.decision is DecisionKind.PREBUILT and after.decision is not DecisionKind.PREBUILT:
        # Branch 615 has open modules only, which drops the old generations by another door.
        assert after.cause in {Cause.DRIVER_TOO_NEW, Cause.DRIVER_BROKEN}
        if after.cause is Cause.DRIVER_BROKEN:
            assert new.startswith("615")


@given(machine=machines())
@settings(max_examples=100, deadline=None)
def test_a_wider_requirement_never_loses_a_build(machine: Machine) -> None:
    for spec in SPECS[1:]:
        if decide(machine, spec).decision is DecisionKind.PREBUILT:
            assert decide(machine).decision is DecisionKind.PREBUILT


@given(machine=machines())
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_gpus_does_not_matter(machine: Machine) -> None:
    turned = dataclasses.replace(machine, devices=tuple(reversed(machine.devices)))
    one, other = decide(machine), decide(turned)
    assert (one.decision, one.torch, one.cuda_tag, one.cause) == (
        other.decision,
        other.torch,
        other.cuda_tag,
        other.cause,
    )


@given(machine=machines(), spec=st.sampled_from(SPECS), channel=st.sampled_from(["stable", "any"]))
@settings(max_examples=150, deadline=None)
def test_what_is_told_to_be_typed_is_judged_to_work(machine: Machine, spec: str | None, channel: str) -> None:
    decision = decide(machine, spec, channel)
    if decision.decision is not DecisionKind.PREBUILT:
        return
    report = judge_command(" ".join(decision.command), machine, catalog=CATALOG)
    assert report.works is True
    assert report.build == f"{decision.torch}+{decision.cuda_tag}"


@given(text=st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_as_a_requirement_is_read_or_refused(text: str) -> None:
    machine = catalog.described_machine("rtx5090-linux")
    try:
        decide(machine, text)
    except UsageError as refused:
        assert refused.next_step


def test_an_observed_machine_without_a_readable_driver_says_unknown() -> None:
    machine = dataclasses.replace(catalog.described_machine("rtx5090-linux"), driver=Driver(), simulated=False)
    decision = decide(machine)
    assert {one.axis for one in decision.axes if one.verdict is AxisVerdict.UNKNOWN} == {"generation", "driver"}
    assert any(one.startswith("driver:") for one in decision.assumptions)


@pytest.mark.parametrize("name", catalog.described_machines())
def test_every_described_machine_gets_an_answer(name: str) -> None:
    machine = catalog.described_machine(name)
    assert machine.simulated
    decision = decide(machine)
    assert decision.simulated
    assert (decision.decision is DecisionKind.BLOCKED) == (name == "rtx5090-v100-linux")
