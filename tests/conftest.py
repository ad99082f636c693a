"""The walls around a test: no network, no process and no foreign library unless the test asks by its mark."""

from __future__ import annotations

import ctypes
import socket
import subprocess
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """A mark of one room: the faults that are left to the full pass."""
    config.addinivalue_line("markers", "slow_fault: only in the full pass over the faults, benchmarks/faults.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` run where an NVIDIA device file is; elsewhere they are skipped by that mark alone."""
    import pathlib

    if pathlib.Path("/dev/nvidiactl").exists():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU (marked gpu)")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


def _closed(what: str, mark: str) -> Any:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError(f"this test reached for {what}; mark it with @pytest.mark.{mark} if it must")

    return refuse


@pytest.fixture(autouse=True)
def _walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    marks = {mark.name for mark in request.node.iter_markers()}
    if not marks & {"process", "gpu", "network"}:
        monkeypatch.setattr(subprocess, "Popen", _closed("a process", "process"))
        monkeypatch.setattr(ctypes, "CDLL", _closed("a foreign library", "process"))
    if not marks & {"network", "process", "gpu"}:
        monkeypatch.setattr(socket.socket, "connect", _closed("the network", "network"))
    yield
