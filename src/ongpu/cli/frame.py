"""What every command shares: one place where errors become text and an exit status, and where answers leave."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from ongpu.errors import BlockedError, DoorError, InterruptedRunError, OngpuError

if TYPE_CHECKING:
    from rich.console import RenderableType

_P = ParamSpec("_P")

# Wider than any line of ours: nothing is folded for who has no columns.
_PIPE_WIDTH = 100_000

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]


def command(name: str) -> Callable[[Callable[_P, int]], Callable[_P, None]]:
    """Turn a function that returns an exit status into a command that leaves with it.

    Errors of ours are printed once, on stderr, ending with the next step; with ``--json`` the document on
    stdout carries them. Ctrl-C leaves with 130.
    """

    def wrap(function: Callable[_P, int]) -> Callable[_P, None]:
        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
            try:
                status = function(*args, **kwargs)
            except OngpuError as error:
                status = refuse(name, error, as_json=kwargs.get("as_json") is True)
            except DoorError as error:
                blocked = OngpuError(
                    f"{error}.", next_step="Run `ongpu probe` to see what of this machine can be read."
                )
                status = refuse(name, blocked, as_json=kwargs.get("as_json") is True)
            except KeyboardInterrupt:
                stopped = InterruptedRunError("Interrupted.", next_step="Nothing was left running; run it again.")
                status = refuse(name, stopped, as_json=kwargs.get("as_json") is True)
            raise typer.Exit(status)

        return run

    return wrap


def show(rendered: RenderableType, *, to_stderr: bool = False) -> None:
    """Print text for people: as wide as the terminal, or one line a line where a pipe or a log takes it."""
    from rich.console import Console

    # In a notebook Rich would show HTML of its own beside what is written here.
    terminal = Console(stderr=to_stderr, force_jupyter=False)
    if terminal.is_terminal:
        terminal.print(rendered)
        return
    width = None if "COLUMNS" in os.environ else _PIPE_WIDTH
    piped = Console(stderr=to_stderr, width=width, force_jupyter=False)
    with piped.capture() as captured:
        piped.print(rendered)
    stream = sys.stderr if to_stderr else sys.stdout
    stream.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def refuse(name: str, error: OngpuError, *, as_json: bool) -> int:
    """Say why and what to do now, on stderr, and as a document where one was asked for; returns the exit status."""
    if as_json:
        cause = error.cause if isinstance(error, BlockedError) else None
        body = {
            "message": error.message,
            "next_step": error.next_step,
            "cause": cause,
            "exit_status": error.exit_status,
        }
        schema = f"ongpu/{name.split(maxsplit=1)[0] if name else 'ongpu'}/1"
        print(json.dumps({"schema": schema, "error": body}, indent=2, ensure_ascii=False))
    print(f"{f'ongpu {name}'.strip()}: {error.message}", file=sys.stderr)
    if isinstance(error, BlockedError):
        print(f"Cause: {error.cause}", file=sys.stderr)
        for line in error.lines:
            print(f"  | {line}", file=sys.stderr)
    print(f"Next: {error.next_step}", file=sys.stderr)
    return error.exit_status
