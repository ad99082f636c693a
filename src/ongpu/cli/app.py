"""The commands, gathered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, cast

import typer

from ongpu import __version__
from ongpu.cli import catalog, diagnose, evidence, install, keys, look, plan, prove, report, scan
from ongpu.cli.frame import refuse
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

app.command("enable")(prove.enable)
app.command("install")(install.install)
app.command("run", context_settings={"allow_interspersed_args": False})(prove.run)
app.command("train", context_settings=_PASSED_ON)(prove.train)
app.command("probe")(look.probe)
app.command("plan")(plan.plan)
app.command("scan")(scan.scan)
app.command("doctor")(scan.doctor)
app.command("verify")(look.verify)
app.command("diagnose")(diagnose.diagnose)
app.command("report")(report.report)
app.command("keygen")(keys.keygen)
app.command("challenge")(keys.challenge)
app.add_typer(evidence.app, name="evidence")
app.add_typer(catalog.app, name="catalog")


def run(words: Sequence[str]) -> int:
    """Run the command that ``words`` name; returns its exit status. A bad option ends as every bad input does."""
    try:
        # Not through Typer's own main: that one would answer an interrupt without a word.
        root = typer.main.get_command(app)
        with root.make_context("ongpu", list(words)) as context:
            root.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except _ParserError as error:
        return _misused(error, words)
    return 0


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
