"""Joins the engines, phase by phase, and stops at the first block."""

from ongpu.enable.request import PHASES, EnableReport, EnableRequest, Phase, PhaseOutcome, Watch
from ongpu.enable.walk import enable

__all__ = ["PHASES", "EnableReport", "EnableRequest", "Phase", "PhaseOutcome", "Watch", "enable"]
