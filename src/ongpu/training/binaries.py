"""Triton's kernels as binaries of the GPU: compiled once, kept, and launched by the driver without importing Triton.

Importing Triton and finding what it had compiled before took 1.2 s of a run on one H100 (2026-11-22, Triton 3.6); the
driver loads the same 17 binaries in 5 ms. A kernel is written with ``@kernel`` in place of ``@triton.jit``, its module
imports ``triton.language as tl`` for type checkers alone, and it is called as Triton's are: ``name[grid](...)``. What
has no binary yet is compiled by Triton at that moment.
"""

from __future__ import annotations

import base64
import ctypes
import functools
import hashlib
import importlib.util
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

_C_TYPES: Final[Mapping[str, Any]] = {
    "i1": ctypes.c_int8,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u64": ctypes.c_uint64,
    "fp32": ctypes.c_float,
}
"""By Triton's names of what a kernel is given; pointers are 64 bits."""
_FREE_SHARED_BYTES: Final = 48 << 10
"""Of a block's shared memory; more has to be asked for."""
_SHARED_ATTRIBUTE: Final = 8
"""``CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES``."""
_SCRATCH: Final = (None, None)
"""A kernel's last two parameters are pointers to memory that ours ask nothing of."""
_READ: Final = ((3, 5), (3, 9))
"""The first and the last Triton whose way of calling a kernel is this: ``backends/nvidia/driver`` was read in 3.5 to
3.9, and 3.6 was run. With another one Triton makes every call itself, and nothing is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """A compiled kernel. ``passed``: which of a call's arguments it is given, by place, and as what."""

    name: str
    code: bytes
    warps: int
    shared_bytes: int
    passed: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    binary: Binary
    function: Any


_loaded: dict[str, _Loaded] = {}
_making = threading.Lock()
_threads = threading.local()


class Kernel:
    """A function in Triton's language. Made by :func:`kernel`."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._by_triton: Any = None
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """The call with so many programs."""
        return functools.partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *given: Any, num_warps: int = 4, **sizes: Any) -> None:
        key = f"{self._name} {' '.join(map(_kind, given))} {sorted(sizes.items())} {num_warps}"
        found = _loaded.get(key)
        if found is None:
            compiled = self._compile(grid, given, {**_in_triton(sizes), "num_warps": num_warps})
            if compiled is None:
                return
            found = _loaded[key] = _load(compiled)
        _start(found, grid, given)

    def _compile(self, grid: tuple[int, ...], given: Sequence[Any], options: dict[str, Any]) -> Binary | None:
        """Its binary for such a call; ``None``: Triton has made the call itself."""
        import triton  # noqa: PLC0415 - only what was never compiled here pays its import

        with _making:
            self._read(triton)
        version = tuple(map(int, triton.__version__.split(".")[:2]))
        if not isinstance(self._by_triton, triton.JITFunction) or not _READ[0] <= version <= _READ[1]:
            self._by_triton[grid](*given, **options)
            return None
        made = self._by_triton.warmup(*given, grid=grid, **options)
        facts = made.metadata
        kinds = list(made.src.signature.values())
        passed = tuple((place, kind) for place, kind in enumerate(kinds) if kind != "constexpr")
        asks = ("global_scratch_size", "profile_scratch_size", "launch_cooperative_grid", "launch_pdl")
        plain = facts.num_ctas == 1 and not any(getattr(facts, name) for name in asks)
        if not plain or any(place >= len(given) or _c_type(kind) is None for place, kind in passed):
            self._by_triton[grid](*given, **options)
            return None
        return Binary(
            name=facts.name,
            code=made.asm["cubin"],
            warps=facts.num_warps,
            shared_bytes=facts.shared,
            passed=passed,
        )

    def _read(self, triton: Any) -> None:
        """Have Triton read the source of the function, and of those it calls, once."""
        if self._by_triton is not None:
            return
        names = self._function.__globals__
        names["tl"] = triton.language
        for name, value in list(names.items()):
            if isinstance(value, _Part):
                names[name] = triton.jit(value.function)
        self._by_triton = triton.jit(self._function)


@dataclass(frozen=True, slots=True)
class _Part:
    function: Callable[..., Any]


def kernel(function: Callable[..., None]) -> Kernel:
    """In place of ``@triton.jit`` on a kernel."""
    return Kernel(function)


def part(function: Callable[..., Any]) -> Any:
    """In place of ``@triton.jit`` on a function that kernels of the same module call."""
    return _Part(function)


def programs(size: int, each: int) -> int:
    """How many programs of ``each`` elements cover ``size``."""
    return -(-size // each)


def dump() -> bytes:
    """All kernels that this process has launched, for :func:`take`; empty where Triton launched them itself."""
    rows = {
        key: {
            "name": one.binary.name,
            "code": base64.b64encode(one.binary.code).decode(),
            "warps": one.binary.warps,
            "shared_bytes": one.binary.shared_bytes,
            "passed": one.binary.passed,
        }
        for key, one in _loaded.items()
    }
    return json.dumps(rows).encode() if rows else b""


def take(content: bytes) -> None:
    """Load what :func:`dump` wrote.

    :raises ValueError: it is no such thing, or this driver does not take it.
    """
    try:
        for key, row in json.loads(content).items():
            passed = tuple((int(place), str(kind)) for place, kind in row.pop("passed"))
            code = base64.b64decode(row.pop("code"), validate=True)
            _loaded[key] = _load(Binary(code=code, passed=passed, **row))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"its kernels cannot be loaded: {error}") from None


def identity(modules: Sequence[Any], *, capability: tuple[int, int]) -> str:
    """What binaries of the kernels of these modules depend on, beside a call's sizes."""
    triton = importlib.util.find_spec("triton")
    sources = [str(module.__file__) for module in modules]
    sources += [triton.origin] if triton and triton.origin else []  # it says which version it is
    parts = [Path(source).read_bytes() for source in sources]
    return hashlib.sha256(b"\0".join([*parts, repr((capability, torch.__version__)).encode()])).hexdigest()


def _kind(value: Any) -> str:
    """What Triton compiles for: an argument's type, whether it is 1, and whether a number or address is of 16."""
    if value is None:
        return "-"
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{'' if value.data_ptr() % 16 else '/16'}"
    if isinstance(value, float):
        return "float"
    if value == 1:
        return "1"
    return f"{'int' if -(1 << 31) <= value < 1 << 31 else 'long'}{'' if value % 16 else '/16'}"


def _in_triton(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """With torch's types as Triton's."""
    if not any(isinstance(value, torch.dtype) for value in sizes.values()):
        return dict(sizes)
    import triton.language  # noqa: PLC0415 - see Kernel._compile

    return {
        name: getattr(triton.language, str(value).removeprefix("torch.")) if isinstance(value, torch.dtype) else value
        for name, value in sizes.items()
    }


def _c_type(kind: str) -> Any:
    return ctypes.c_void_p if kind.startswith("*") else _C_TYPES.get(kind)


@functools.cache
def _library() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _driver() -> Any:
    """The driver, with torch's context in this thread: autograd's threads have none before their first operation."""
    driver = _library()
    if not getattr(_threads, "ready", False):
        device, context = ctypes.c_int(), ctypes.c_void_p()
        _check(driver.cuDeviceGet(ctypes.byref(device), torch.cuda.current_device()))
        _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        _check(driver.cuCtxSetCurrent(context))
        _threads.ready = True
    return driver


def _load(binary: Binary) -> _Loaded:
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(_driver().cuModuleLoadData(ctypes.byref(module), binary.code))
    _check(_driver().cuModuleGetFunction(ctypes.byref(function), module, binary.name.encode()))
    if binary.shared_bytes > _FREE_SHARED_BYTES:
        _check(_driver().cuFuncSetAttribute(function, _SHARED_ATTRIBUTE, binary.shared_bytes))
    return _Loaded(binary=binary, function=function)


def _start(found: _Loaded, grid: tuple[int, ...], given: Sequence[Any]) -> None:
    binary = found.binary
    values = [
        _c_type(kind)(given[place].data_ptr() if kind.startswith("*") else given[place])
        for place, kind in binary.passed
    ]
    values += map(ctypes.c_void_p, _SCRATCH)
    places = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    _check(
        _driver().cuLaunchKernel(
            found.function,
            *(*grid, 1, 1)[:3],
            *(32 * binary.warps, 1, 1),
            binary.shared_bytes,
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
            places,
            None,
        )
    )


def _check(code: int) -> None:
    if code:
        name = ctypes.c_char_p()
        _library().cuGetErrorString(code, ctypes.byref(name))
        raise RuntimeError(f"CUDA error: {(name.value or b'unknown').decode()} ({code})")
