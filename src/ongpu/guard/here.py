"""The guard around a part of *this* process: cells of a notebook, where there is no command to wrap.

The same witnesses and the same readings as for a command, with this process as the root of the tree. What differs is
said: memory that the process held before the part began must be less than what it holds in it, and this process
supervises itself, so a crash of it leaves a journal without an end, which proves nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ongpu.domain.witness import Recorder
from ongpu.guard.feed import TICK_S, Feed
from ongpu.guard.model import GuardSettings
from ongpu.guard.tree import Member, read_processes
from ongpu.guard.watcher import Watcher, new_hook_folder

_OPTIMIZERS = "torch.optim.optimizer"


@contextlib.contextmanager
def guard_here(*, settings: GuardSettings, recorder: Recorder, argv: tuple[str, ...] = ()) -> Iterator[None]:
    """Watch this process until the block ends; the recorder is called from another thread meanwhile.

    Of ``settings``, only what concerns watching is used. An exception leaves the block as it would without the guard,
    and is recorded as status 1.
    """
    folder = new_hook_folder(settings.scratch)
    watcher = Watcher(baseline_s=settings.baseline_s, command=settings.sampler_command)
    feed = Feed(
        role=settings.role,
        recorder=recorder,
        watcher=watcher,
        folder=folder,
        patience_s=settings.sampler_patience_s,
        on_first_step=_ignore_step,
        on_tree=_ignore_tree,
    )
    try:
        feed.baseline(timeout_s=settings.baseline_s + settings.sampler_patience_s, stop=lambda: False)
        me = read_processes().get(os.getpid())
        recorder.record(
            "child.start",
            {
                "role": settings.role,
                "argv": list(argv),
                "pid": os.getpid(),
                "start_time": me.start_time if me else None,
                "supervisor_pid": os.getpid(),
                "trace_steps": settings.trace_steps,
            },
        )
        watcher.tell({"watch": os.getpid(), "reaper": os.getpid()})
        began, status = time.monotonic(), 1
        try:
            with _fed(feed), _hooked(folder, settings.trace_steps):
                yield
            status = 0
        finally:
            recorder.record("child.exit", _exit(settings.role, status=status, seconds=time.monotonic() - began))
            feed.finish()
            feed.close(left_behind=0)
    finally:
        watcher.close()
        shutil.rmtree(folder, ignore_errors=True)


def _exit(role: str, *, status: int, seconds: float) -> dict[str, Any]:
    return {
        "role": role,
        "pid": os.getpid(),
        "status": status,
        "signal": None,
        "seconds": round(seconds, 6),
        "interrupted": False,
        "stopped": None,
        "stopped_reason": None,
    }


@contextlib.contextmanager
def _fed(feed: Feed) -> Iterator[None]:
    """Take readings in a thread while the block runs."""
    done = threading.Event()

    def take() -> None:
        while not done.is_set():
            feed.take(wait_s=TICK_S)

    thread = threading.Thread(target=take, name="ongpu-guard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _hooked(folder: Path, trace_steps: int | None) -> Iterator[None]:
    """The hook in this process, at once or when torch comes; off again at the end."""
    end = attach_here(folder, trace_steps=trace_steps)
    try:
        yield
    finally:
        end()


def attach_here(folder: Path, *, trace_steps: int | None = None) -> Callable[[], None]:
    """Put the hook into this process, its records into ``folder``. Returns what ends it."""
    hook, *others = (_load(name) for name in ("ongpu_hook", "ongpu_witness", "ongpu_trace"))
    optimizers = sys.modules.get(_OPTIMIZERS)
    with _importable(*others):
        witness: Any
        if optimizers is None:
            witness = hook.arm(str(folder), trace_steps)
            end: Callable[[], None] = witness.end
            return end
        witness = hook.new_witness(str(folder), trace_steps)
    detach = hook.attach(witness, optimizers)

    def end_and_detach() -> None:
        detach()
        witness.end()

    return end_and_detach


def _load(name: str) -> ModuleType:
    path = Path(__file__).resolve().parent / "hook" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable(*modules: ModuleType) -> Iterator[None]:
    before = {module.__name__: sys.modules.get(module.__name__) for module in modules}
    sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _ignore_step(seq: int) -> None:
    """Nobody acts on it here."""


def _ignore_tree(members: list[Member]) -> None:
    """Nothing of this process' tree is ended by us."""
