"""The commands, gathered."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any, Final, cast

import typer

from ongpu import __version__
from ongpu.cli import catalog, diagnose, evidence, install, keys, look, plan, prove, report, scan
from ongpu.cli.frame import refuse
from ongpu.cli.plain import without_pydantic
from ongpu.errors import UsageError

# The parser's own usage error has no public name: typer brings a click of its own, or uses the other one, by version.
_ParserError: Final = cast("type[Exception]", typer.BadParameter.__base__)

app = typer.Typer(
    name="ongpu",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the framed help imports a Markdown parser: half of the time that --help takes
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, value: bool) -> None:
    if value:
        print(f"ongpu {__version__}")
        raise typer.Exit


@app.callback()
def ongpu(
    version: Annotated[
        bool, typer.Option("--version", callback=lambda value: _version(value=value), is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """From "there is an NVIDIA GPU in this machine" to "PyTorch training on it is proven", or the named cause.

    Three answers: proven, refuted, unknown. Exit status: 0 proven or done, 1 refuted or failed, 2 usage,
    3 blocked or unknown, 130 interrupted.
    """


_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}

app.command("enable", short_help="Enable the GPU here and prove a training on it.")(prove.enable)
app.command("install", short_help="Make a fresh environment with the right PyTorch.")(install.install)
app.command(
    "run", short_help="Run any command under guard and judge it.", context_settings={"allow_interspersed_args": False}
)(prove.run)
app.command("train", short_help="The reference training.", context_settings=_PASSED_ON)(prove.train)
app.command("probe", short_help="Read the machine: GPUs, driver, OS, Pythons.")(look.probe)
app.command("plan", short_help="Choose the PyTorch build for a machine.")(plan.plan)
app.command("scan", short_help="Read which CUDA code files and packages carry.")(scan.scan)
app.command("doctor", short_help="Can this environment train on this GPU?")(scan.doctor)
app.command("verify", short_help="Run the smoke checks on the GPU.")(look.verify)
app.command("diagnose", short_help="Name the cause of a failure from a log.")(diagnose.diagnose)
app.command("report", short_help="Draw a bundle as one HTML page.")(report.report)
app.command("keygen", short_help="Make a key pair to sign evidence with.")(keys.keygen)
app.command("challenge", short_help="Make a nonce for somebody else's next run.")(keys.challenge)
app.add_typer(evidence.app, name="evidence", short_help="Check a bundle; trust nothing in it.")
app.add_typer(catalog.app, name="catalog", short_help="How old the facts are; read new ones.")


def run(words: Sequence[str]) -> int:
    """Run the command that ``words`` name; returns its exit status. A bad option ends as every bad input does."""
    try:
        # Not through Typer's own main: that one would answer an interrupt without a word.
        root = typer.main.get_command(_asked_for(words))
        without_pydantic(root, words)
        with root.make_context("ongpu", list(words)) as context:
            root.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except _ParserError as error:
        return _misused(error, words)
    return 0


def _asked_for(words: Sequence[str]) -> typer.Typer:
    """The one command that ``words`` name, since to make all of them takes 10 ms; all, where they name none."""
    named = [one for one in app.registered_commands if words and one.name == words[0]]
    if not named:
        return app
    one = copy.copy(app)
    one.registered_commands, one.registered_groups = named, []
    return one


def _misused(error: Exception, words: Sequence[str]) -> int:
    parsed = cast("Any", error)
    named = f"ongpu {words[0]}" if words and not words[0].startswith("-") else "ongpu"
    path = parsed.ctx.command_path if parsed.ctx is not None else named
    if type(error).__name__ == "NoArgsIsHelpError":
        return run([*path.split()[1:], "--help"]) or UsageError.exit_status
    message = str(parsed.format_message()).strip()
    refused = UsageError(
        message if message.endswith((".", "?")) else f"{message}.",
        next_step=f"Type `{path} --help` to see what it takes.",
    )
    name = path.removeprefix("ongpu").strip()
    ours = words[: list(words).index("--")] if "--" in words else words
    as_json = "--json" in ours and name not in ("", "run")  # for run, --json names a file
    return refuse(name, refused, as_json=as_json)
