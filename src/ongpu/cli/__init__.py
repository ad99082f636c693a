"""The command line: parse, call, print, exit status."""

from __future__ import annotations


def main() -> None:
    """Run the command of ``sys.argv`` and leave with its exit status."""
    from ongpu.cli.app import app

    app()
