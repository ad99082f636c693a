"""Measure the diagnosis over its cases and write the table of docs/diagnose.md.

Usage: ``python tools/diagnose_table.py [--write]``. ``--write`` replaces what stands between the two marks of the
page. How long it takes: ``benchmarks/diagnose_speed.py``.
"""

from __future__ import annotations

import argparse
import collections
import tomllib
from pathlib import Path
from typing import Any

from ongpu.diagnose import Sure, diagnose
from ongpu.domain.verdict import Cause

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests" / "diagnose" / "cases"
PAGE = ROOT / "docs" / "diagnose.md"
BEGIN, END = "<!-- table: tools/diagnose_table.py -->", "<!-- end of table -->"


def read_cases() -> list[dict[str, Any]]:
    """Every case of the tests."""
    return [
        case
        for path in sorted(CASES.glob("*.toml"))
        for case in tomllib.loads(path.read_text(encoding="utf-8"))["case"]
    ]


def table(cases: list[dict[str, Any]]) -> str:
    """The confusion table as Markdown: a row a true cause, what it was taken for, how sure."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    sure: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    wrong_and_sure = 0
    for case in cases:
        found = diagnose(case["log"].encode())
        counts[case["cause"]][found.cause.value] += 1
        sure[case["cause"]][found.sure.value] += 1
        wrong_and_sure += found.cause.value != case["cause"] and found.sure is Sure.DECISIVE
    rows = ["| cause | cases | right | decisive | inferred | taken for |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    right = 0
    for cause in Cause:
        seen = counts[cause.value]
        right += seen[cause.value]
        others = ", ".join(f"{name} {count}" for name, count in seen.most_common() if name != cause.value)
        rows.append(
            f"| {cause.value} | {seen.total()} | {seen[cause.value]} | {sure[cause.value]['decisive']} | "
            f"{sure[cause.value]['inferred']} | {others} |"
        )
    kinds = collections.Counter(case["kind"] for case in cases)
    bases = collections.Counter(case["basis"] for case in cases)
    broken_called_healthy = sum(counts[one.value]["healthy"] for one in Cause if one is not Cause.HEALTHY)
    rows.append(f"| all | {len(cases)} | {right} | | | |")
    rows += [
        "",
        f"Kinds: {', '.join(f'{name} {count}' for name, count in sorted(kinds.items()))}. "
        f"Where the texts are from: {', '.join(f'{name} {count}' for name, count in sorted(bases.items()))}.",
        f"Wrong and yet decisive: {wrong_and_sure}. Broken logs called healthy: {broken_called_healthy}. "
        f"Healthy logs called broken: {sum(counts['healthy'].values()) - counts['healthy']['healthy']}.",
    ]
    return "\n".join(rows)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    text = table(read_cases())
    print(text)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
