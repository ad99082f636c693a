"""Kernels as binaries: what a call passes to the driver, what is kept, and what is not believed."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ongpu.training import binaries, policy
from ongpu.training.binaries import Binary
from ongpu.training.config import Config
from ongpu.training.layers import Sizes
from ongpu.training.rehearse import Kept
from ongpu.training.store import Store

SIZES = Sizes(
    width=64, inner=256, heads=2, keys=2, head_width=32, vocabulary=512, layer_norm=True, biases=True,
    input_bias=True, gated=False, turned=False,
)  # fmt: skip


class Driver:
    """libcuda as far as binaries use it. ``launches``: the name, the grid, threads, shared memory, and the values."""

    def __init__(self) -> None:
        self.modules: list[bytes] = []
        self.names: list[bytes] = []
        self.shared: list[int] = []
        self.launches: list[tuple[int, ...]] = []
        self.current: set[tuple[int, int]] = set()
        """Threads, each with its context."""
        self.read: Callable[[Any], None] = lambda _: None

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802 - the driver's names
        device._obj.value = index
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802 - the driver's names
        context._obj.value = 100 + device.value
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:  # noqa: N802 - the driver's names
        self.current.add((threading.get_ident(), context.value))
        return 0

    def cuModuleLoadData(self, module: Any, code: bytes) -> int:  # noqa: N802 - the driver's names
        assert (threading.get_ident(), 103) in self.current
        if code == b"of another driver":
            return 218
        self.modules.append(code)
        module._obj.value = len(self.modules)
        return 0

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:  # noqa: N802 - the driver's names
        self.names.append(name)
        function._obj.value = module.value
        return 0

    def cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> int:  # noqa: N802 - the driver's names
        assert attribute == 8
        self.shared.append(value)
        return 0

    def cuGetErrorString(self, code: int, text: Any) -> int:  # noqa: N802 - the driver's names
        text._obj.value = b"device kernel image is invalid" if code == 218 else b"another error"
        return 0

    def cuLaunchKernel(self, *given: Any) -> int:  # noqa: N802 - the driver's names
        function, *sizes, stream, places, nothing = given
        assert nothing is None
        assert stream.value == 77
        assert (threading.get_ident(), 103) in self.current
        self.launches.append((function.value, *sizes))
        self.read(places)
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(binaries, "_library", lambda: made)
    monkeypatch.setattr(binaries, "_threads", threading.local())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(binaries, "_loaded", {})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: type("Stream", (), {"cuda_stream": 77}))
    return made


def compiled(code: bytes = b"code", *, shared_bytes: int = 0) -> Binary:
    passed = ((0, "*bf16"), (2, "i32"), (3, "fp32"), (4, "i64"))
    return Binary(name="_add", code=code, warps=4, shared_bytes=shared_bytes, passed=passed)


def add(x: Any, one: int, size: int, factor: float, place: int, BLOCK: int) -> None:  # noqa: N803, PLR0917 - as Triton's
    raise AssertionError("it is not Python's to run")


def test_a_call_passes_what_the_binary_takes(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = binaries.kernel(add)
    made: list[tuple[Any, ...]] = []

    def compile_(self: object, grid: tuple[int, ...], given: Any, options: dict[str, Any]) -> Binary:
        made.append((grid, options))
        return compiled(shared_bytes=100_000)

    monkeypatch.setattr(binaries.Kernel, "_compile", compile_)
    x = torch.zeros(64, dtype=torch.bfloat16)
    values: list[Any] = []

    def read(places: Any) -> None:
        kinds: tuple[Any, ...] = (
            ctypes.c_uint64,
            ctypes.c_int32,
            ctypes.c_float,
            ctypes.c_int64,
            ctypes.c_uint64,
            ctypes.c_uint64,
        )
        values.append([ctypes.cast(place, ctypes.POINTER(kind))[0] for place, kind in zip(places, kinds, strict=True)])

    driver.read = read
    kernel[5, 2](x, 1, 33, 0.5, 1 << 40, BLOCK=16, num_warps=8)
    assert values == [[x.data_ptr(), 33, 0.5, 1 << 40, 0, 0]]
    assert driver.launches == [(1, 5, 2, 1, 128, 1, 1, 100_000)]
    assert driver.shared == [100_000]
    kernel[7,](x, 1, 35, 0.25, 1 << 41, BLOCK=16, num_warps=8)
    assert driver.launches[1:] == [(1, 7, 1, 1, 128, 1, 1, 100_000)]
    assert made == [((5, 2), {"BLOCK": 16, "num_warps": 8})]


def test_a_thread_without_a_context_gets_torchs(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries.Kernel, "_compile", lambda *_: compiled())
    kernel, x = binaries.kernel(add), torch.zeros(64, dtype=torch.bfloat16)
    threads = [threading.Thread(target=lambda: kernel[1,](x, 1, 33, 0.5, 1 << 40, BLOCK=16)) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len(driver.launches) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.zeros(64)},
        {"x": torch.zeros(65, dtype=torch.bfloat16)[1:]},
        {"one": 2},
        {"size": 32},
        {"place": 5},
        {"BLOCK": 32},
        {"num_warps": 4},
    ],
)
def test_what_triton_compiles_apart_is_another_binary(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, *, other: dict[str, Any]
) -> None:
    made: list[Binary] = []

    def compile_(*_: object) -> Binary:
        made.append(compiled())
        return made[-1]

    monkeypatch.setattr(binaries.Kernel, "_compile", compile_)
    kernel = binaries.kernel(add)

    def call(x: Any, one: int, size: int, place: int, **sizes: int) -> None:
        kernel[1,](x, one, size, 0.5, place, **sizes)

    usual: dict[str, Any] = {
        "x": torch.zeros(64, dtype=torch.bfloat16), "one": 1, "size": 33, "place": 1 << 40, "BLOCK": 16, "num_warps": 8,
    }  # fmt: skip
    call(**usual)
    call(**usual)
    assert len(made) == 1
    call(**{**usual, **other})
    assert len(made) == 2


def test_what_is_kept_is_loaded_again(driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(folder=tmp_path, writes=True)
    monkeypatch.setattr(binaries, "identity", lambda *_, **__: "these sources")

    def kept(longest: int = 60) -> Kept:
        return Kept(store, SIZES, longest=longest, fp8=False, capability=(9, 0), say=said.append)

    monkeypatch.setattr(binaries.Kernel, "_compile", lambda *_: compiled())
    kernel, x = binaries.kernel(add), torch.zeros(64, dtype=torch.bfloat16)
    kernel[1,](x, 1, 33, 0.5, 1 << 40, BLOCK=16)
    assert not kept().load()
    kept().keep()
    binaries._loaded.clear()
    monkeypatch.setattr(binaries.Kernel, "_compile", lambda *_: pytest.fail("compiled again"))
    assert not kept(longest=70).load()  # compiled for records of one tile
    found = kept()
    assert found.load()
    assert found.load()
    assert driver.modules == [b"code", b"code"]
    kernel[1,](x, 1, 33, 0.5, 1 << 40, BLOCK=16)
    assert said == []
    assert not Kept(None, SIZES, longest=60, fp8=False, capability=(9, 0), say=said.append).load()


class ByTriton:
    """What ``triton.jit`` makes of a kernel."""

    def __init__(self, function: object) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.facts = {
            "name": "_add", "num_warps": 2, "num_ctas": 1, "shared": 0, "global_scratch_size": 0,
            "profile_scratch_size": 0, "launch_cooperative_grid": False, "launch_pdl": False,
        }  # fmt: skip

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *given, **options: self.calls.append((grid, given, options))

    def warmup(self, *given: Any, grid: tuple[int, ...], **options: Any) -> Any:
        kinds = ["*fp32", "constexpr", "i32", "fp32", "i64", "constexpr"]
        source = SimpleNamespace(signature=dict(zip("abcdef", kinds, strict=True)))
        return SimpleNamespace(metadata=SimpleNamespace(**self.facts), src=source, asm={"cubin": b"made"})


@pytest.mark.parametrize(
    ("version", "facts", "ours"),
    [
        ("3.6.0", {}, True),
        ("3.9.1+git", {}, True),
        ("3.4.0", {}, False),
        ("3.10.0", {}, False),
        ("3.6.0", {"num_ctas": 2}, False),
        ("3.6.0", {"global_scratch_size": 128}, False),
        ("3.6.0", {"launch_pdl": True}, False),
    ],
)
def test_who_launches_what_triton_compiled(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, *, version: str, facts: dict[str, object], ours: bool
) -> None:
    stand_in = SimpleNamespace(JITFunction=ByTriton, jit=ByTriton, language=object(), __version__=version)
    monkeypatch.setitem(sys.modules, "triton", stand_in)
    kernel, x = binaries.kernel(add), torch.zeros(64)
    kernel._read(stand_in)
    kernel._by_triton.facts.update(facts)
    kernel[3,](x, 1, 33, 0.5, 1 << 40, BLOCK=16, num_warps=2)
    kernel[3,](x, 1, 33, 0.5, 1 << 40, BLOCK=16, num_warps=2)
    assert driver.modules == ([b"made"] if ours else [])
    assert len(driver.launches) == (2 if ours else 0)
    assert len(kernel._by_triton.calls) == (0 if ours else 2)
    assert bool(binaries.dump()) is ours


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"a": 1}', b'{"a": {"name": "b"}}', b'{"a": {"passed": [[0]], "code": "", "name": "b"}}'],
)
def test_what_is_no_such_file_is_refused(driver: Driver, content: bytes) -> None:
    with pytest.raises(ValueError, match="its kernels cannot be loaded"):
        binaries.take(content)


def test_a_binary_that_this_driver_refuses_is_none(driver: Driver) -> None:
    row = {"name": "_add", "code": "b2YgYW5vdGhlciBkcml2ZXI=", "warps": 4, "shared_bytes": 0, "passed": []}
    with pytest.raises(ValueError, match="device kernel image is invalid"):
        binaries.take(json.dumps({"key": row}).encode())


def test_short_jobs_take_what_an_earlier_run_left() -> None:
    config = Config(max_steps=50, precision="bfloat16", packing=True)
    found = policy.choose(config, device="cuda", native=True, kept=lambda: True).kernels
    assert found.taken
    assert "an earlier run" in found.reason
    assert not policy.choose(config, device="cuda", native=True, kept=lambda: False).kernels.taken

    def never() -> bool:
        raise AssertionError("not asked where it decides nothing")

    assert policy.choose(
        Config(max_steps=900, precision="bfloat16", packing=True), device="cuda", native=True, kept=never
    )
    assert not policy.choose(config, device="cuda", native=True, unfused="why", kept=never).kernels.taken


def test_what_binaries_depend_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, version = tmp_path / "kernels.py", tmp_path / "__init__.py"
    source.write_text("one")
    version.write_text("__version__ = '3.6.0'")
    module = type("Module", (), {"__file__": str(source)})
    found: list[str] = []

    def note(capability: tuple[int, int] = (9, 0)) -> None:
        found.append(binaries.identity([module], capability=capability))

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: ModuleSpec("triton", None, origin=str(version)))
    note()
    note((8, 0))
    version.write_text("__version__ = '3.7.0'")
    note()
    source.write_text("two")
    note()
    monkeypatch.setattr(torch, "__version__", "2.99")
    note()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    note()
    assert len(set(found)) == len(found) == 6
    note()
    assert found[-1] == found[-2]
