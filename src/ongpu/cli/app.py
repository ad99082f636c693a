"""The commands, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from ongpu import __version__
from ongpu.cli import evidence, look, prove

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
app.command("install")(prove.install)
app.command("run", context_settings={"allow_interspersed_args": False})(prove.run)
app.command("train", context_settings=_PASSED_ON)(prove.train)
app.command("probe")(look.probe)
app.command("plan")(look.plan)
app.command("scan")(look.scan)
app.command("doctor")(look.doctor)
app.command("verify")(look.verify)
app.command("diagnose")(look.diagnose)
app.add_typer(evidence.app, name="evidence")
