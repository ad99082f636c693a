"""What a log or a bundle says, put to the planner. Reads a bundle's files; everything else is pure."""

from ongpu.explain.bundle import Block, BundleCase, LogTail, read_case
from ongpu.explain.log import Explanation, explain

__all__ = ["Block", "BundleCase", "Explanation", "LogTail", "explain", "read_case"]
