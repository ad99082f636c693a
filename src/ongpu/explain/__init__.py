"""What a log or a bundle says, put to the planner. Reads a bundle's files; everything else is pure."""

from ongpu.explain.bundle import Block, BundleCase, read_case
from ongpu.explain.log import Explanation, explain
from ongpu.explain.stored import LogTail

__all__ = ["Block", "BundleCase", "Explanation", "LogTail", "explain", "read_case"]
