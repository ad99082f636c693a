"""The digest of a kernel trace, from what kineto really recorded on an H100 (``tests/recordings/trace``)."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDED = json.loads((ROOT / "tests/recordings/trace/kineto_events.json").read_text())["windows"]
SHIFT = 1_795_354_791_000_000_000  # kineto tells nanoseconds since the epoch


def hook() -> ModuleType:
    """The hook's module, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("ongpu_trace", ROOT / "src/ongpu/guard/hook/ongpu_trace.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Kind:
    name: str


@dataclass
class Event:
    """An event as torch 2.11 hands it out."""

    row: list[Any]

    def name(self) -> str:
        return str(self.row[0])

    def device_type(self) -> Kind:
        return Kind(self.row[1])

    def device_index(self) -> int:
        return int(self.row[2])

    def correlation_id(self) -> int:
        return int(self.row[3])

    def start_ns(self) -> int:
        return SHIFT + int(self.row[4])

    def duration_ns(self) -> int:
        return int(self.row[5])


def digest(window: dict[str, Any], rows: list[list[Any]] | None = None) -> dict[str, Any]:
    events = [Event(row) for row in (window["events"] if rows is None else rows)]
    marks = [SHIFT + one for one in window["marks"]]
    return dict(hook().digest(events, marks, SHIFT + window["ended"], first=6))


@pytest.mark.parametrize("window", RECORDED, ids=[one["what"] for one in RECORDED])
def test_what_was_recorded(window: dict[str, Any]) -> None:
    found = digest(window)
    graph = window["what"] == "graph"
    assert [one[:2] for one in found["steps"]] == [[6, 3], [7, 3]], "two gemm kernels and a relu in each step"
    assert (found["control"], found["unplaced"], found["truncated"]) == (True, 0, False)
    assert (found["copies"], found["graph_launches"]) == ((0, 2) if graph else (2, 0))
    (device,) = found["on_devices"]
    copied = sum(row[5] for row in window["events"] if row[0].startswith("Memcpy"))
    worked = sum(one[2] for one in found["steps"])
    assert device["kernels"] == 6
    assert device["busy_ns"] == worked + copied
    assert sum(one["count"] for one in found["kernels"]) == 6
    assert not any("spin_kernel" in one["name"] for one in found["kernels"])


def test_without_its_kernel_there_is_no_control() -> None:
    window = RECORDED[0]
    assert digest(window, [row for row in window["events"] if "spin_kernel" not in row[0]])["control"] is False


def test_a_sleep_of_the_program_is_a_kernel_of_the_program() -> None:
    """Only the one launched after the window is the hook's."""
    window = RECORDED[0]
    (launch,) = [row for row in window["events"] if row[0] == "cudaLaunchKernel" and row[4] > window["ended"]]
    early = [[*row[:4], row[4] - launch[4] + 1000, row[5]] if row[3] == launch[3] else row for row in window["events"]]
    found = digest(window, early)
    assert (found["control"], found["steps"][0][1]) == (False, 4)


def test_kernels_whose_launch_was_not_recorded_are_counted_to_no_step() -> None:
    window = RECORDED[0]
    found = digest(window, [row for row in window["events"] if row[1] == "CUDA"])
    assert (found["unplaced"], [one[1] for one in found["steps"]]) == (6, [0, 0])
