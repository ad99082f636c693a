"""One pretended GPU, the stand-in driver's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.autograd.profiler import launch
from torch.cuda import graphs
from torch.cuda.graphs import CUDAGraph

__all__ = ["CUDAGraph", "graphs"]

RESERVED = 2 << 30
state = {"initialized": False, "allocated": RESERVED, "broken": False, "capturing": False}


class _Uuid:
    def __str__(self) -> str:
        return "99999999-2222-4333-8444-555555555555"


class _Properties:
    uuid, name, major, minor = _Uuid(), "NVIDIA H100 80GB HBM3", 9, 0


class Event:
    """Nobody who watches may hold one: to destroy it in a forked child ends that child (seen on an H100)."""

    def __init__(self, **_options: object) -> None:
        raise AssertionError("the hook made a CUDA event")


def is_initialized() -> bool:
    return bool(state["initialized"])


def is_available() -> bool:
    return True


def is_current_stream_capturing() -> bool:
    return bool(state["capturing"])


def synchronize(index: int) -> None:
    assert not state["capturing"], "nobody may wait for the device while a graph is recorded"


@contextlib.contextmanager
def device(index: int) -> Iterator[None]:
    yield


def _sleep(cycles: int) -> None:
    launch("at::cuda::(anonymous namespace)::spin_kernel(long)")


def current_device() -> int:
    return 0


def get_device_properties(index: int) -> _Properties:
    assert state["initialized"], "the hook must never initialize CUDA"
    return _Properties()


def memory_stats(index: int) -> dict[str, int]:
    if state["broken"]:
        raise RuntimeError("CUDAPluggableAllocator does not yet support getDeviceStats")
    held = int(state["allocated"])
    return {
        "allocated_bytes.all.current": held - (64 << 20),
        "reserved_bytes.all.current": held,
        "reserved_bytes.all.peak": held,
    }
