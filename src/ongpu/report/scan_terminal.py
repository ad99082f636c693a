"""What ``scan`` shows: a matrix of packages by GPU that is read at a glance, and the reasons below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ongpu.domain.arch import ComputeCapability
from ongpu.domain.coverage import (
    BinaryCoverage,
    BinaryFit,
    CodeVerdict,
    DeviceCoverage,
    PackageCoverage,
    ScanReport,
    ScanVerdict,
    TargetCount,
)
from ongpu.report.scan_document import file_fits

# Short, so that nine GPU generations fit on a screen of 80 columns beside the packages.
_MARK: Final = {
    CodeVerdict.NATIVE: ("yes", "green"),
    CodeVerdict.JIT: ("jit", "yellow"),
    CodeVerdict.NO_CODE: ("-", "dim"),
    CodeVerdict.UNKNOWN: ("?", "yellow"),
    CodeVerdict.PARTIAL: ("part", "red"),
    CodeVerdict.NONE: ("NO", "bold red"),
}
_MEANS: Final = {
    CodeVerdict.NATIVE: "machine code",
    CodeVerdict.JIT: "the driver compiles it at first use",
    CodeVerdict.PARTIAL: "some kernels are missing",
    CodeVerdict.NONE: "no kernel image is available for execution on the device",
    CodeVerdict.UNKNOWN: "could not be judged",
    CodeVerdict.NO_CODE: "nothing precompiled that is needed",
}
_TOLD: Final = (CodeVerdict.NONE, CodeVerdict.PARTIAL, CodeVerdict.UNKNOWN)
_LISTED_BINARIES: Final = 12


def scan(
    report: ScanReport, judged: ScanVerdict, *, names: Mapping[ComputeCapability, str], failing: Sequence[str] = ()
) -> RenderableType:
    """Packages by GPU, then why not, then what was not judged; the files one by one where there are few.

    :param names: what to call a device above its compute capability.
    :param failing: the sentences of ``--fail-on``.
    """
    shown = [one for one in judged.packages if any(fit.verdict is not CodeVerdict.NO_CODE for fit in one.fits)]
    beside = [one for one in judged.packages if one.binaries and one not in shown]
    parts: list[RenderableType] = []
    listed = [one for package in report.packages for one in package.binaries]
    few = len(report.packages) == 1 and 0 < len(listed) <= _LISTED_BINARIES
    if shown:
        parts += [_matrix(shown, judged, names, files=listed if few and len(listed) > 1 else ()), _legend(shown)]
    else:
        parts.append(Text("Nothing here has precompiled CUDA code that a program would load.", "bold"))
    parts += [Text(text, "dim") for package in shown for text in _reasons(package)]
    reasons: dict[str, list[str]] = {}
    for package in beside:
        reasons.setdefault(_why_not_judged(package), []).append(_name(package))
    parts += [Text(f"not judged: {', '.join(named)}: {why}", "dim") for why, named in reasons.items()]
    if few:
        parts += [_contents(one) for one in listed]
    parts.append(Text(_counted(report, judged), "dim"))
    parts += [Text(f"could not be read: {problem}", style="yellow") for problem in judged.problems]
    parts += [Text(f"fails: {text}", style="bold red") for text in failing]
    return Group(*parts)


def _matrix(
    shown: Sequence[PackageCoverage],
    judged: ScanVerdict,
    names: Mapping[ComputeCapability, str],
    *,
    files: Sequence[BinaryCoverage],
) -> RenderableType:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("package", overflow="fold", vertical="bottom")
    called = [[word for word in names.get(device, "").split(", ") if word] for device in judged.devices]
    tall = max(map(len, called), default=0)
    for device, lines in zip(judged.devices, called, strict=True):
        head = "\n".join([*[""] * (tall - len(lines)), *lines, str(device)])
        table.add_column(head, no_wrap=True)
    for package in shown:
        table.add_row(Text(_name(package)), *(_cell(fit) for fit in package.fits))
    for one in files:
        fits = file_fits(one, judged)
        if any(fit.verdict is not CodeVerdict.NO_CODE for fit in fits):
            table.add_row(Text(f"  {PurePath(one.path).name}"), *(_cell(fit) for fit in fits))
    if len(shown) > 1:
        table.add_row(Text("all together", "bold"), *(_cell(fit) for fit in judged.overall))
    return table


def _cell(fit: DeviceCoverage | BinaryFit) -> Text:
    word, style = _MARK[fit.verdict]
    return Text(word, style)


def _legend(shown: Sequence[PackageCoverage]) -> Text:
    used = {fit.verdict for package in shown for fit in package.fits}
    return Text("; ".join(f"{_MARK[one][0]}: {words}" for one, words in _MEANS.items() if one in used), "dim")


def _reasons(package: PackageCoverage) -> Iterable[str]:
    """Why not, the same reason told once for all the devices it is true of."""
    devices: dict[str, list[str]] = {}
    for fit in package.fits:
        if fit.verdict in _TOLD:
            devices.setdefault(fit.reason.replace(str(fit.device), "it"), []).append(str(fit.device))
    for reason, named in devices.items():
        told = reason if len(named) > 1 else next(fit.reason for fit in package.fits if str(fit.device) == named[0])
        yield f"{_name(package)} on {', '.join(named)}: {told}"
    if package.note:
        yield f"{_name(package)}: {package.note}"


def _why_not_judged(package: PackageCoverage) -> str:
    return package.note or (package.fits[0].reason if package.fits else "nothing in it runs on a GPU")


def _contents(one: BinaryCoverage) -> Text:
    kinds = (
        ("machine code", one.sass),
        ("PTX", one.ptx),
        ("LTO-IR", one.lto),
        ("link inputs", (*one.relocatable, *one.outside_relocatable)),
        ("PTX as text", one.texts),
    )
    told = [f"{name} {_targets(rows)}" for name, rows in kinds if rows]
    told += ["AMD (ROCm) code"] if one.rocm else []
    if one.format == "other" and not told:
        told = ["no format that is known to carry code for a GPU"]
    return Text(f"{PurePath(one.path).name}: {'; '.join(told) or 'no device code'}")


def _targets(rows: Sequence[TargetCount]) -> str:
    return ", ".join(
        f"{row.target} x {row.count}{f' (PTX ISA {row.isa})' if row.isa is not None else ''}" for row in rows
    )


def _counted(report: ScanReport, judged: ScanVerdict) -> str:
    without = sum(not one.binaries for one in judged.packages)
    files = f"{report.files_read} {'file' if report.files_read == 1 else 'files'} read"
    if not report.deep:
        files += ", their fat-binary sections only"
    if judged.driver_cuda is not None:
        files += f"; PTX judged for this machine's driver, of CUDA {judged.driver_cuda}"
    if not without:
        return f"{files}."
    carry = "1 package carries" if without == 1 else f"{without} packages carry"
    return f"{files}; {carry} no precompiled CUDA code, which says nothing of code compiled at run time."


def _name(package: PackageCoverage) -> str:
    return f"{package.name} {package.version}".strip()
