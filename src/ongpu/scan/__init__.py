"""Reading machine code and PTX out of binaries: pure functions from bytes, and the walk over files."""

from ongpu.scan.binary import scan_file
from ongpu.scan.judge import GENERATIONS, failing, judge_binary, judge_coverage, judge_package
from ongpu.scan.loader import Displaced, displaced_libraries
from ongpu.scan.packages import scan_paths
from ongpu.scan.torchlib import judge_torch, read_torch_version, scan_torch, torch_coverage
from ongpu.scan.wheel import scan_wheel, scan_wheel_report

__all__ = [
    "GENERATIONS",
    "Displaced",
    "displaced_libraries",
    "failing",
    "judge_binary",
    "judge_coverage",
    "judge_package",
    "judge_torch",
    "read_torch_version",
    "scan_file",
    "scan_paths",
    "scan_torch",
    "scan_wheel",
    "scan_wheel_report",
    "torch_coverage",
]
