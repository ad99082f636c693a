"""The GPU's context, made by the driver while Python imports torch; the two have nothing to do with one another.

Making it took 0.24 to 0.28 s on one H100 (2026-11-22), importing torch more than a second. torch uses the context that
its process already has. Whatever fails here fails again in torch, and is told there.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading


def wake(local_rank: int, *, platform: str = sys.platform, library: str = "libcuda.so.1") -> threading.Thread | None:
    """Begin making the context of the GPU of this local rank; ``None`` where that is not known how to do."""
    if platform != "linux":
        return None
    # not a daemon: a process that ends in the middle of a call into the driver may crash, and the call is short
    thread = threading.Thread(target=_make_context, args=(local_rank, library), name="context of the GPU")
    thread.start()
    return thread


def _make_context(local_rank: int, library: str) -> None:
    with contextlib.suppress(OSError, AttributeError):
        cuda = ctypes.CDLL(library)  # calls release the interpreter's lock
        count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
            return
        index = local_rank if local_rank < count.value else 0
        if index < count.value and (index == local_rank or count.value == 1):  # as devices.choose takes it
            cuda.cuDeviceGet(ctypes.byref(device), index)
            cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
