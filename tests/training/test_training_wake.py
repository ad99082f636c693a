"""The GPU's context, begun before torch is imported: which one, and that nothing of it can fail a run."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from ongpu.training import wake


class Driver:
    """libcuda as ``wake`` uses it, with so many GPUs."""

    def __init__(self, count: int, *, status: int = 0) -> None:
        self.count, self.status = count, status
        self.asked: list[int] = []
        self.retained = 0

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's names
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802 - the driver's names
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802 - the driver's names
        self.asked.append(index)
        device._obj.value = index
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802 - the driver's names
        assert isinstance(context._obj, ctypes.c_void_p)
        assert device.value == self.asked[-1]
        self.retained += 1
        return 0


def woken(monkeypatch: pytest.MonkeyPatch, driver: Driver, *, local_rank: int) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    thread = wake.wake(local_rank, platform="linux")
    assert thread is not None
    thread.join()


@pytest.mark.parametrize(
    ("count", "local_rank", "asked"),
    [(1, 0, [0]), (4, 2, [2]), (1, 3, [0]), (2, 3, []), (0, 0, [])],
)
def test_the_gpu_of_the_rank(monkeypatch: pytest.MonkeyPatch, *, count: int, local_rank: int, asked: list[int]) -> None:
    driver = Driver(count)
    woken(monkeypatch, driver, local_rank=local_rank)
    assert driver.asked == asked
    assert driver.retained == len(asked)


def test_a_driver_that_does_not_start_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(1, status=999)
    woken(monkeypatch, driver, local_rank=0)
    assert driver.asked == []

    def missing(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    thread = wake.wake(0, platform="linux")
    assert thread is not None
    thread.join()


def test_elsewhere_nothing_is_begun() -> None:
    assert wake.wake(0, platform="win32") is None
    assert wake.wake(0, platform="darwin") is None
