"""A guarded part of this process, where it differs from a command: its seed, and the words of its failure."""

from __future__ import annotations

import random
import sys
import traceback

from ongpu.errors import BlockedError, UsageError
from ongpu.proof.blocked import RUN_PHASE, failure_of_log, record_block
from ongpu.proof.bundle import LOG_FILE, Bundle

_KEPT = "# What the cells printed is not kept; this is the error that ended them.\n"


def check_torch_is_here() -> None:
    """Refuse to seed what is not there yet. :raises UsageError: torch is not imported."""
    if "torch" not in sys.modules:
        raise UsageError(
            "A nonce seeds the training, and torch is not imported yet.",
            next_step="Import torch in a cell before this one.",
        )


def sow(seed: int) -> None:
    """Seed the generators of this process that a training draws from, as far as they are imported."""
    random.seed(seed)
    for name, part in (("numpy", "random.seed"), ("torch", "manual_seed")):
        found: object = sys.modules.get(name)
        for step in part.split("."):
            found = getattr(found, step, None)
        if callable(found):
            found(seed)


def record_failure(bundle: Bundle, error: Exception) -> BlockedError:
    """Keep the error that ended a part as its log, and the block it was: the cause it names, and what to do now."""
    text = "".join(traceback.format_exception(error))
    bundle.text(LOG_FILE, _KEPT + text)
    message = f"The part did not complete: it ended with {type(error).__name__}."
    failure = failure_of_log(bundle.folder / LOG_FILE, message)
    record_block(bundle, failure, phase=RUN_PHASE)
    return failure
