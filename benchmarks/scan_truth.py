"""Compare what `scan` reads in real wheels with a truth file, target by target and count by count.

usage: python benchmarks/scan_truth.py TRUTH.json WHEEL_FOLDER

The truth file is a list of ``{"wheel", "sha256", "binaries": [{"path", "format", "counts", "relocatable_counts",
"exec_counts", "outside_fatbin_sections": {"sass", "ptx", "lto"}}]}``; ``counts`` are the images in the fat-binary
sections, link inputs included. A wheel whose digest differs is not compared, and counted as such.
Exit status 1 if anything differs or nothing was compared.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ongpu.domain.coverage import BinaryCoverage, TargetCount
from ongpu.scan import scan_wheel


def counted(rows: Iterable[TargetCount]) -> dict[str, int]:
    """Counts by target, as text."""
    return {str(row.target): row.count for row in rows}


def added(first: dict[str, int], second: dict[str, int], sign: int = 1) -> dict[str, int]:
    """Sum (or difference) by target, without zeros."""
    total = {key: first.get(key, 0) + sign * second.get(key, 0) for key in {*first, *second}}
    return {key: count for key, count in total.items() if count}


def differences(truth: dict[str, Any], read: BinaryCoverage) -> list[str]:
    """What differs in one binary."""
    relocatable, outside = counted(read.relocatable), counted(read.outside)
    executable = added(counted((*read.sass, *read.ptx, *read.lto)), outside, -1)
    all_outside = added(outside, counted((*read.outside_relocatable, *read.texts)))
    expected_outside: dict[str, int] = {}
    for kind in ("sass", "ptx", "lto"):
        expected_outside = added(expected_outside, truth.get("outside_fatbin_sections", {}).get(kind, {}))
    pairs = [("outside", expected_outside, all_outside)]
    if "counts" in truth:
        pairs.append(("counts", truth["counts"], added(executable, relocatable)))
    elif truth.get("ptx"):
        pairs.append(("targets", dict.fromkeys(truth["ptx"], 1), executable))
    if "relocatable_counts" in truth:
        pairs.append(("relocatable", truth["relocatable_counts"], relocatable))
    if "exec_counts" in truth and read.format != "ar":
        pairs.append(("executable", truth["exec_counts"], executable))
    return [f"{name}: truth - read = {added(want, got, -1)}" for name, want, got in pairs if added(want, got, -1)]


def main() -> int:
    """Compare every wheel of the truth file that lies in the folder."""
    truth = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(sys.argv[2])
    compared = differing = 0
    for row in sorted(truth, key=lambda one: int(one["size"])):
        path = folder / row["wheel"]
        if not path.exists():
            print(f"{row['wheel']}: not here")
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            print(f"{row['wheel']}: another file of this name, not compared")
            continue
        start = time.perf_counter()
        read = {one.path: one for one in scan_wheel(path)}
        seconds = time.perf_counter() - start
        found: list[str] = []
        images = 0
        for binary in row["binaries"]:
            mine = read.pop(binary["path"], None)
            if mine is None:
                found.append(f"{binary['path']}: not reported")
                continue
            images += sum(counted((*mine.sass, *mine.ptx, *mine.lto, *mine.relocatable)).values())
            found.extend(f"{binary['path']}: {text}" for text in differences(binary, mine))
        found.extend(
            f"{name}: not in the truth file ({one.problems or one.targets})"
            for name, one in read.items()
            if not one.rocm
        )
        compared += 1
        differing += bool(found)
        print(
            f"{row['wheel']}: {len(row['binaries'])} binaries, {images} images, {seconds:.2f} s, "
            f"{'equal' if not found else 'DIFFERS'}"
        )
        for text in found:
            print(f"    {text}")
    print(f"{compared} of {len(truth)} wheels compared, {differing} differ")
    return 1 if differing or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
