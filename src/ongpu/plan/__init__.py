"""The choice: which PyTorch build runs on a machine, and why. Pure: a machine and the catalog in, a decision out."""

from ongpu.plan.check import CommandReport, judge_command
from ongpu.plan.choose import plan
from ongpu.plan.describe import described
from ongpu.plan.request import Request

__all__ = ["CommandReport", "Request", "described", "judge_command", "plan"]
