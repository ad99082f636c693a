"""Which of the judged builds is taken: those that no axis refuses, in one order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ongpu.plan.build_axes import Candidate
from ongpu.plan.request import version

# What a build may leave unknown and still be chosen: facts of the machine, which are then named as assumptions.
MACHINE_FACTS: Final = frozenset({"driver", "glibc"})


def choose(judged: Iterable[Candidate], *, ignoring: frozenset[str] = frozenset()) -> Candidate | None:
    """The best build that no axis refuses (those of ``ignoring`` apart).

    Native before compiled by the driver, stable before nightly, newest first, then PyPI's own variant, then the
    higher CUDA.
    """
    eligible = [one for one in judged if one.refusals() <= ignoring and one.unknowns() <= MACHINE_FACTS | ignoring]
    return max(eligible, key=rank, default=None)


def rank(one: Candidate) -> tuple[bool, bool, object, bool, int]:
    """The order of builds that fit, best highest; see :func:`choose`."""
    build = one.build
    return (
        one.native,
        build.channel == "stable",
        version(build.torch),
        build.pypi_default,
        int(build.cuda_tag.removeprefix("cu")),
    )
