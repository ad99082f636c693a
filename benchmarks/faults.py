"""Every fault that can be made without a GPU, with three seeds: false proofs, hangs, orphans, told secrets.

    python benchmarks/faults.py [--seeds 1 2 3] [--workers 2] [--only 46 47] [--out FILE] [--table FILE.md]

Runs the tests that ``tests/faults/faults.toml`` names. Each asserts that its fault bit and what came of it, so a false
proof is a test that fails. Besides, over each seed: no test takes longer than 30 s, no process is left alive (this one
adopts what is orphaned below it), and no file of any bundle holds the secret that every command was given. Seeds draw
the moment or the place of a fault where it has one. Prints a summary; ``--out`` writes the raw result as JSON,
``--table`` the rows between the two marks of that page. Leaves with 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ongpu.guard.tree import adopt_orphans

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 30.0
BEGIN, END = "<!-- faults: written by benchmarks/faults.py -->", "<!-- faults: end -->"


@dataclass
class Pass:
    """One seed: what ran, and what was wrong."""

    seed: int
    tests: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    over_30_s: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    bundles: int = 0

    @property
    def wrong(self) -> bool:
        """Whether anything was."""
        return bool(self.failed or self.over_30_s or self.orphans or self.secrets)


def listed() -> list[dict[str, Any]]:
    """The list of faults."""
    faults: list[dict[str, Any]] = tomllib.loads((ROOT / "tests/faults/faults.toml").read_text("utf-8"))["fault"]
    return faults


def cases(report: Path) -> Iterator[tuple[str, float, str]]:
    """Each test case of a report of pytest: its id, its seconds, and ``passed``, ``failed`` or ``skipped``."""
    for case in ET.parse(report).getroot().iter("testcase"):
        state = "passed"
        for child in case:
            if child.tag in {"failure", "error"}:
                state = "failed"
            elif child.tag == "skipped" and state == "passed":
                state = "skipped"
        path = str(case.get("classname")).replace(".", "/") + ".py"
        yield f"{path}::{case.get('name')}", float(case.get("time") or 0), state


def run_pass(names: list[str], *, seed: int, workers: int) -> tuple[Pass, dict[str, str]]:
    """Run the tests with one seed. Gives what was wrong, and the state of every case."""
    done = Pass(seed=seed)
    secret = f"canary-{random.SystemRandom().getrandbits(96):024x}"
    states: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        report, base = Path(name, "report.xml"), Path(name, "base")
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(workers)]
        argv += [f"--junitxml={report}", f"--basetemp={base}", "-o", "junit_family=xunit1", *names]
        environment = {**os.environ, "ONGPU_FAULTS": "1", "ONGPU_FAULT_SEED": str(seed), "ONGPU_CANARY_TOKEN": secret}
        began = time.monotonic()
        subprocess.run(argv, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False)
        done.seconds = round(time.monotonic() - began, 1)
        for case, seconds, state in cases(report):
            done.tests += 1
            states[case] = state
            done.slowest_s = max(done.slowest_s, round(seconds, 1))
            if state == "failed":
                done.failed.append(case)
            elif state == "skipped":
                done.skipped.append(case)
            if seconds > LIMIT_S:
                done.over_30_s.append(f"{case}: {seconds:.1f} s")
        done.orphans = end_orphans()
        bundles = {path.parent for path in base.rglob("journal.jsonl") if not path.is_symlink()}
        done.bundles = len(bundles)
        for path in (one for bundle in bundles for one in bundle.rglob("*")):
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes():
                    done.secrets.append(str(path.relative_to(base)))
    return done, states


def end_orphans() -> list[str]:
    """What is alive below this process once the tests have ended; it is ended now."""
    deadline = time.monotonic() + 3
    left: list[psutil.Process] = []
    while time.monotonic() < deadline:
        below = psutil.Process().children(recursive=True)
        left = [one for one in below if one.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return []
        time.sleep(0.1)
    told = []
    for one in left:
        with contextlib.suppress(psutil.Error):
            told.append(" ".join(one.cmdline())[:200])
            one.kill()
    return told


def made(fault: dict[str, Any], states: dict[str, str]) -> str:
    """``made`` where every test of a fault passed; ``skipped`` where one could not run here; else ``failed``."""
    found: set[str] = set()
    for name in fault.get("tests", ()):
        mine = {state for case, state in states.items() if case == name or case.startswith(f"{name}[")}
        found |= mine or {"skipped"}
    return "failed" if "failed" in found else "skipped" if "skipped" in found else "made" if found else "not made"


def table(faults: list[dict[str, Any]], results: dict[int, list[str]]) -> str:
    """The rows of the page."""
    lines = ["| # | fault | what comes of it | made without a GPU | on a GPU | missing |", "|---:|---|---|---|---|---|"]
    for fault in faults:
        states = results.get(fault["number"], [])
        count = states.count("made")
        here = f"{count} of {len(states)} seeds" if fault.get("tests") else ""
        gpu = "a test" if fault.get("gpu") else ""
        missing = fault.get("lacks", fault.get("not_done", ""))
        comes = fault.get("comes", "**not made**")
        lines.append(f"| {fault['number']} | {fault['what']} | {comes} | {here} | {gpu} | {missing} |")
    return "\n".join(lines)


def main() -> int:
    """Run the passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    faults = [one for one in listed() if not options.only or one["number"] in options.only]
    # Whole functions: a name with a case in it would not be found by pytest where the case is spelled otherwise.
    names = sorted({name.partition("[")[0] for one in faults for name in one.get("tests", ())})
    adopt_orphans(on=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # a shell starts what is in the background with some of them ignored
    passes: list[Pass] = []
    results: dict[int, list[str]] = {one["number"]: [] for one in faults if one.get("tests")}
    for seed in options.seeds:
        done, states = run_pass(names, seed=seed, workers=options.workers)
        passes.append(done)
        for one in faults:
            if one.get("tests"):
                results[one["number"]].append(made(one, states))
        print(json.dumps(asdict(done)), flush=True)
    in_all = [number for number, states in results.items() if set(states) == {"made"}]
    document = {
        "faults_listed": len(faults),
        "made_in_every_seed": len(in_all),
        "not_made_in_every_seed": {number: states for number, states in results.items() if number not in in_all},
        "not_done": [one["number"] for one in faults if "not_done" in one],
        "gpu_only": [one["number"] for one in faults if not one.get("tests") and one.get("gpu")],
        "false_proofs_or_other_failures": sum(len(one.failed) for one in passes),
        "hangs": sum(len(one.over_30_s) for one in passes),
        "orphans": sum(len(one.orphans) for one in passes),
        "secrets": sum(len(one.secrets) for one in passes),
        "passes": [asdict(one) for one in passes],
    }
    print(json.dumps({name: value for name, value in document.items() if name != "passes"}, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    if options.table is not None:
        page = options.table.read_text("utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        text = table(listed(), results)
        options.table.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
    return 1 if any(one.wrong for one in passes) else 0


if __name__ == "__main__":
    sys.exit(main())
