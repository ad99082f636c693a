"""Edges that only one line of the planner decides: each of these tests was asked for by a mutation that survived."""

from __future__ import annotations

import dataclasses

from ongpu import catalog
from ongpu.domain.arch import CodeTarget
from ongpu.domain.machine import Driver
from ongpu.domain.verdict import Cause
from ongpu.plan import Request, described, plan

CATALOG = catalog.load()


def test_machine_code_is_taken_before_newer_code_that_the_driver_compiles() -> None:
    newest = next(one for one in CATALOG.builds if one.label == "2.15.0+cu132" and one.os == "linux")
    compiled = dataclasses.replace(newest, torch="2.16.0", targets=(CodeTarget.parse("compute_75"),))
    wider = dataclasses.replace(CATALOG, builds=(*CATALOG.builds, compiled))
    machine = described(catalog=CATALOG, gpus=["H100"], driver="610.43.02", os="linux")
    assert plan(machine, catalog=wider, request=Request()).torch == "2.15.0"
    only = plan(machine, catalog=wider, request=Request(torch_spec=">=2.16"))
    assert only.torch == "2.16.0"


def test_under_wsl_the_windows_numbers_of_the_driver_count() -> None:
    machine = described(catalog=CATALOG, gpus=["A100"], driver="527.41", os="linux", wsl=True)
    assert plan(machine, catalog=CATALOG, request=Request()).cuda_tag == "cu118"
    linux = dataclasses.replace(machine, wsl=False)
    assert plan(linux, catalog=CATALOG, request=Request()).cuda_tag == "cu126"


def test_a_companion_pinned_to_the_release_is_taken_before_a_later_one() -> None:
    machine = catalog.described_machine("rtx5090-linux")
    request = Request(torch_spec="==2.14.0", companions=("torchvision",))
    assert "torchvision==0.29.0" in plan(machine, catalog=CATALOG, request=request).command


def test_orin_needs_the_driver_that_runs_server_code() -> None:
    machine = catalog.described_machine("orin-aarch64")
    for cuda, kernel_mode in (("13.0", "580.00"), ("13.2", "595.58")):
        asked = dataclasses.replace(machine, driver=Driver(kernel_mode=kernel_mode, cuda=cuda))
        decision = plan(asked, catalog=CATALOG, request=Request())
        if cuda == "13.0":
            assert decision.cause is Cause.DRIVER_TOO_OLD
            assert "JetPack 7.2" in decision.next_step
        else:
            assert decision.torch == "2.15.0"


def test_a_recipe_names_a_toolkit_that_the_driver_can_run() -> None:
    machine = described(catalog=CATALOG, gpus=["T4"], arch="aarch64", driver="535.183.01", os="linux")
    text = "\n".join(plan(machine, catalog=CATALOG, request=Request()).recipe)
    assert "CUDA toolkit 12.6" in text
    assert "v2.14.1" in text
