"""The verdict of a journal: the judge's, with the caps that hold whatever the judge says."""

from __future__ import annotations

from collections.abc import Sequence

from ongpu.domain.judge import judge
from ongpu.domain.verdict import Verdict
from ongpu.domain.witness import Observation
from ongpu.evidence.statement import capped


def recompute(observations: Sequence[Observation]) -> Verdict:
    """Judge the observations as the sealer and every checker must. Raises the judge's ``JudgeError`` (ValueError)."""
    return capped(judge(observations), observations)
