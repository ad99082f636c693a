"""How long the commands that answer at once take, process start included.

    python benchmarks/startup.py [--repeat 11] [--python PY] [--out FILE.json]

Prints the median and the range of wall seconds of each command, beside those of a bare ``python -c pass`` of the same
interpreter in the same run (these machines are shared: read the ratio), and says whether torch was imported.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMANDS: dict[str, tuple[str, ...]] = {
    "python -c pass": ("-c", "pass"),
    "ongpu --help": ("-m", "ongpu", "--help"),
    "ongpu plan --gpu": ("-m", "ongpu", "plan", "--gpu", "RTX 5090", "--driver", "570.124", "--offline", "--json"),
    "ongpu probe": ("-m", "ongpu", "probe", "--json"),
}


def seconds(argv: list[str]) -> float:
    """Wall seconds of one run."""
    began = time.perf_counter()
    subprocess.run(argv, capture_output=True, check=False)
    return time.perf_counter() - began


def imports_torch(words: tuple[str, ...]) -> bool:
    """Whether the command imports torch, by Python's own import log."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, check=False)
    return any(line.rsplit(b"|", 1)[-1].strip() == b"torch" for line in done.stderr.splitlines())


def main() -> None:
    """Measure, interleaved, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=11)
    parser.add_argument("--python", help="also measure `ongpu doctor` on this interpreter's environment")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    commands = dict(COMMANDS)
    if options.python:
        commands["ongpu doctor"] = ("-m", "ongpu", "doctor", "--python", options.python, "--json")
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.repeat + 1):
        for name, words in commands.items():
            taken[name].append(seconds([sys.executable, *words]))
    rows: list[dict[str, Any]] = [
        {
            "command": name,
            "median_s": round(statistics.median(found[1:]), 4),
            "min_s": round(min(found[1:]), 4),
            "max_s": round(max(found[1:]), 4),
            "imports_torch": imports_torch(commands[name]),
        }
        for name, found in taken.items()
    ]
    for row in rows:
        print(
            "{command:20} median {median_s:.3f} s  {min_s:.3f} to {max_s:.3f}  imports torch: {imports_torch}".format(
                **row
            )
        )
    if options.out:
        about = {"python": platform.python_version(), "system": platform.system(), "repeat": options.repeat}
        options.out.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
