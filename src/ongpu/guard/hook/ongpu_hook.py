"""How witness W1 gets into a program: waits for ``torch.optim``, then has torch call it after every step.

Contract: runs inside the user's process, under the user's Python and torch (Python 3.9+, torch 2.0+); imports
nothing of ongpu and never imports torch. What is recorded is :mod:`ongpu_witness`' matter.
"""

# ruff: noqa: PLC0415 - imports wait until they are needed: this runs at the start of every Python of the tree

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # for type checkers alone: typing is an import too many at start-up
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TARGET = "torch.optim.optimizer"
_WARNING_WORDS = ("cuda capability", "compute capability", "not compatible with the current pytorch")


def arm(folder: str, trace_steps: int | None = None) -> Any:
    """Wait for ``torch.optim`` in this process; records go to a file in ``folder``. Returns the witness.

    :param trace_steps: record a kernel trace of that many steps (:mod:`ongpu_trace`).
    """
    witness = new_witness(folder, trace_steps)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=witness.forget)
    sys.meta_path.insert(0, _Finder(witness))
    return witness


def new_witness(folder: str, trace_steps: int | None) -> Any:
    """The witness of this process."""
    new_trace = None
    if trace_steps is not None:
        trace = __import__("ongpu_trace").Trace

        def new_trace(write: Callable[..., None]) -> Any:
            return trace(write, trace_steps)

    return __import__("ongpu_witness").Witness(folder, new_trace)


def attach(witness: Any, module: Any) -> Callable[[], None]:
    """Have torch call ``witness``; ``module`` is ``torch.optim.optimizer``. Returns what takes it off again."""
    torch = sys.modules["torch"]
    frames = _frame_evaluation(torch)

    def seen(optimizer: Any) -> None:
        before = frames.set_eval_frame(None) if frames is not None else None
        try:
            witness.step(optimizer)
        except Exception as error:  # noqa: BLE001 - a witness never breaks the program it watches
            witness.fail("step", error)
        finally:
            if frames is not None:
                frames.set_eval_frame(before)

    def after_step(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        compiler = getattr(torch, "compiler", None)  # not there yet when this is registered
        # A step that the user compiles is left at `seen`, a graph break. torch's own optimizers break the graph
        # in every step themselves; one of another make may be compiled whole, and then this must not be in it.
        own = type(optimizer).__module__.startswith("torch.optim")
        if own or compiler is None or not compiler.is_compiling():
            seen(optimizer)

    seen._torchdynamo_disable = True  # type: ignore[attr-defined]
    if frames is not None:
        _skip(frames, seen.__code__)
    handle = module.register_optimizer_step_post_hook(after_step)
    undo = [handle.remove, _count_created(witness, module.Optimizer), _listen_to_warnings(witness)]
    if witness.trace is not None:
        witness.trace.watch()
    witness.introduce()

    def detach() -> None:
        for one in undo:
            one()

    return detach


def _frame_evaluation(torch: Any) -> Any:
    """torch's switch for TorchDynamo, which would otherwise compile *us* where the user compiles a step."""
    found = getattr(getattr(getattr(torch, "_C", None), "_dynamo", None), "eval_frame", None)
    return found if hasattr(found, "set_eval_frame") else None


def _skip(frames: Any, code: Any) -> None:
    """Tell TorchDynamo to leave one function alone (the call was renamed in torch 2.6)."""
    if hasattr(frames, "set_code_exec_strategy"):
        action = frames._FrameAction
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(action.SKIP, action.DEFAULT))
    elif hasattr(frames, "skip_code"):
        frames.skip_code(code)


def _count_created(witness: Any, optimizer_class: Any) -> Callable[[], None]:
    import functools

    original = optimizer_class.__init__

    @functools.wraps(original)
    def counted(optimizer: Any, *args: Any, **kwargs: Any) -> None:
        original(optimizer, *args, **kwargs)
        witness.created += 1

    def undo() -> None:
        optimizer_class.__init__ = original

    optimizer_class.__init__ = counted
    return undo


def _listen_to_warnings(witness: Any) -> Callable[[], None]:
    import warnings

    shown = warnings.showwarning

    def showwarning(message: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            text = str(message)
            if any(word in text.lower() for word in _WARNING_WORDS):
                witness.warn(text)
        except Exception as error:  # noqa: BLE001 - a witness never breaks the program it watches
            witness.fail("warning", error)
        return shown(message, *args, **kwargs)

    def undo() -> None:
        if warnings.showwarning is showwarning:
            warnings.showwarning = shown

    warnings.showwarning = showwarning
    return undo


class _Finder:
    """Waits in ``sys.meta_path`` for the one module, then steps aside."""

    def __init__(self, witness: Any) -> None:
        self._witness = witness

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _TARGET:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                self._watch(spec)
                return spec
        return None

    def _watch(self, spec: Any) -> None:
        loader = spec.loader
        execute = getattr(loader, "exec_module", None)
        witness = self._witness
        if execute is None:
            return

        def exec_module(module: Any) -> None:
            execute(module)
            try:
                attach(witness, module)
                import atexit

                atexit.register(witness.end)
            except Exception as error:  # noqa: BLE001 - a witness never breaks the program it watches
                witness.fail("load", error)

        try:
            loader.exec_module = exec_module
        except AttributeError as error:
            witness.fail("loader", error)
