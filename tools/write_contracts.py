"""Write what is derived: the JSON Schemas of the documents, and docs/cli.md from the commands' own help.

    python tools/write_contracts.py

A test compares the files with what this would write.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ongpu.report.contract import DOCUMENTS, contract

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = ROOT / "src" / "ongpu" / "report" / "schemas"
CLI_PAGE = ROOT / "docs" / "cli.md"
COMMANDS = (
    "", "enable", "probe", "plan", "install", "scan", "doctor", "verify", "run", "train", "diagnose", "evidence",
    "catalog", "catalog update", "evidence check", "evidence show", "evidence recover",
    "report", "keygen", "challenge",
)  # fmt: skip


def schema_text(command: str) -> str:
    """One schema file."""
    return json.dumps(contract(command), indent=2, ensure_ascii=False) + "\n"


def help_text(command: str) -> str:
    """What ``--help`` prints on a plain terminal of 100 columns."""
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    argv = [sys.executable, "-m", "ongpu", *command.split(), "--help"]
    printed = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
    return "\n".join(line.rstrip() for line in printed.strip().splitlines())


def cli_page() -> str:
    """docs/cli.md."""
    parts = ["# Commands\n\nWritten by `tools/write_contracts.py` from the commands' own `--help`; a test compares.\n"]
    parts += [f"## {f'ongpu {command}'.strip()}\n\n```text\n{help_text(command)}\n```\n" for command in COMMANDS]
    return "\n".join(parts)


def main() -> None:
    """Write all of it."""
    SCHEMAS.mkdir(exist_ok=True)
    for command in DOCUMENTS:
        (SCHEMAS / f"{command}.json").write_text(schema_text(command), "utf-8")
    CLI_PAGE.write_text(cli_page(), "utf-8")


if __name__ == "__main__":
    main()
