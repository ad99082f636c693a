"""``make bench``: the benchmarks that run anywhere, CPU scale, one after the other.

Start-up of the commands, mutated bundles against the checker, a run of a week, the speed of the diagnosis, and the
training beside transformers. The others need a GPU (``train_plan.sh``, ``tests/guard/guard_overhead.py``), large wheels
(``scan_speed.py``, ``scan_truth.py``) or a quarter of an hour (``faults.py``): their docstrings say how.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RUNS = (
    ("start-up", [str(HERE / "startup.py"), "--python", sys.executable]),
    ("mutated bundles", [str(HERE / "mutate_bundles.py"), "--count", "2000"]),
    ("a run of a week", [str(HERE / "long_run.py")]),
    ("diagnosis", [str(HERE / "diagnose_speed.py")]),
    ("training, CPU scale", [str(HERE / "train_cpu.py")]),
)


def main() -> int:
    """Run all; the exit status is the worst."""
    worst = 0
    for name, argv in RUNS:
        print(f"== {name}", flush=True)
        worst = max(worst, subprocess.run([sys.executable, *argv], cwd=HERE.parent, check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
