"""The front door for cells of a notebook, which have no command to wrap.

::

    from ongpu.notebook import guard

    with guard(expect_gpu="RTX 5090") as part:
        trainer.train()
    part.report.verdict.outcome

Why it is not called ``ongpu.guard``: docs/adr/0004.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ongpu.cli.frame import show
from ongpu.cli.keys import nonce as checked_nonce
from ongpu.cli.keys import signer
from ongpu.cli.outside import doors
from ongpu.prove_run import Part, prove_here
from ongpu.report import terminal

__all__ = ["Part", "guard"]


@contextlib.contextmanager
def guard(
    *,
    expect_gpu: str | None = None,
    evidence: str | Path | None = None,
    pseudonymous: bool = False,
    sign: str | Path | None = None,
    nonce: str | None = None,
    trace: int | None = None,
) -> Iterator[Part]:
    """Guard the block as ``ongpu run`` guards a command; the verdict is printed at its end, and kept in the part.

    :param expect_gpu: the GPU that must have trained: its model or its UUID.
    :param evidence: the bundle's folder, which must be free; without it, the next free ``ongpu_runs/part``.
    :param pseudonymous: replace host names, user, paths and GPU UUIDs in the evidence.
    :param sign: a key of ``ongpu keygen`` to sign the evidence with.
    :param nonce: answer this nonce of ``ongpu challenge``: ``random``, NumPy and torch are seeded with what follows
        from it (``part.seed``) as the block begins; a training that seeds itself must take that.
    :param trace: record the kernels of that many steps (2 to 5) from inside.
    :raises UsageError: something asked for cannot be meant; the block did not begin.
    """
    part: Part | None = None
    try:
        with prove_here(
            doors=doors(),
            evidence=Path(evidence) if evidence is not None else None,
            expect_gpu=expect_gpu,
            pseudonymous=pseudonymous,
            signer=signer(Path(sign) if sign is not None else None),
            nonce=checked_nonce(nonce),
            trace_steps=trace,
        ) as part:
            yield part
    finally:
        if part is not None and part.report is not None:
            show(terminal.ran(part.report))
