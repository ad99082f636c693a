"""The pages of a bundle, made from its journal alone: nothing on them that no observation says.

Strings of a journal may come from anywhere (a GPU's name, a program's output): they reach a page with control
characters made visible, on one line, inside code marks that they cannot close.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ongpu import __version__
from ongpu.domain.foreign import foreign_libraries
from ongpu.domain.machine import Machine
from ongpu.domain.plain import plain
from ongpu.domain.ranks import ranks
from ongpu.domain.verdict import Outcome, Verdict
from ongpu.domain.witness import Observation
from ongpu.errors import UsageError
from ongpu.proof.blocked_folder import BLOCKED_REPORT, blocked_documents, is_blocked
from ongpu.proof.bundle import REHEARSED
from ongpu.report.document import RunDocument, from_json
from ongpu.report.json_text import to_json

if TYPE_CHECKING:
    import jinja2

_RAW = ("env_info.txt", "torch_cuda_check.txt", "training_log.txt", "nvidia_smi.txt")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def inert(value: object) -> str:
    """One line of text that can carry no markup, no control sequence and no change of direction."""
    if value is None:
        return "unknown"
    text = _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))
    for mark in "\\`*_{}[]<>|":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>`" else {"<": "&lt;", ">": "&gt;", "`": "'"}[mark])
    return text


def code(value: object) -> str:
    """The value as inline code; a backtick within cannot end it."""
    text = _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", "unknown" if value is None else str(value))
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text.replace('|', '&#124;')}{space}{fence}"


def _environment() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415 - a tenth of the start of every command that writes no page

    source = resources.files("ongpu.report").joinpath("templates")
    names = ("README.md.j2", "env_info.txt.j2")
    loader = jinja2.DictLoader({name: source.joinpath(name).read_text("utf-8") for name in names})
    made = jinja2.Environment(  # noqa: S701 - Markdown and text, not HTML; every value goes through a filter above
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(inert=inert, code=code, quoted=_quoted, gib=_gib)
    return made


def _quoted(argv: Sequence[str]) -> str:
    return shlex.join([str(word) for word in argv])


def _gib(size_bytes: object) -> str:
    return f"{size_bytes / 2**30:.2f} GiB" if isinstance(size_bytes, int) else "unknown"


class Observed:
    """What a page asks of a journal: the records of one kind, and the first of them."""

    def __init__(self, observations: Sequence[Observation]) -> None:
        self._observations = observations

    def all(self, kind: str) -> list[Observation]:
        """Every record of a kind, in order."""
        return [one for one in self._observations if one.kind == kind]

    def first(self, kind: str) -> Mapping[str, Any]:
        """The data of the first record of a kind; empty where there is none."""
        return next((one.data for one in self._observations if one.kind == kind), {})

    def hooks(self, record: str, role: str = "train") -> list[Observation]:
        """What the hook in a role's processes said, of one kind of record."""
        found = self.all("hook")
        return [one for one in found if one.data.get("record") == record and one.data.get("role") == role]

    def trained_on(self) -> list[Mapping[str, Any]]:
        """The devices that the training's own steps named, each once, as the process claims them."""
        seen: dict[str, Mapping[str, Any]] = {}
        for one in self.hooks("step"):
            devices = one.data.get("devices")
            for device in devices if isinstance(devices, list) else ():
                seen.setdefault(str(device.get("uuid") or device.get("device")), device)
        return list(seen.values())

    def metrics(self, role: str) -> Mapping[str, Any]:
        """What the training of a role wrote of itself."""
        return next((one.data for one in self.all("metrics") if one.data.get("role") == role), {})


def foreign(observations: Sequence[Observation]) -> tuple[str, ...]:
    """What :func:`foreign_libraries` says of the machine that the journal holds; nothing where there is none."""
    data = Observed(observations).first("machine")
    if not data or data.get("simulated"):
        return ()
    try:
        return foreign_libraries(from_json(json.dumps(plain(data)).encode(), Machine, what="the machine record"))
    except UsageError:
        return ()  # a record of another version: the judge reads what it needs of it, this page need not


class BundlePages:
    """Renders the pages; the templates are beside this module."""

    @cached_property
    def _environment(self) -> jinja2.Environment:
        return _environment()

    def env_info(self, observations: Sequence[Observation]) -> str:
        """``env_info.txt``."""
        return self._environment.get_template("env_info.txt.j2").render(seen=Observed(observations))

    def verdict(self, observations: Sequence[Observation], verdict: Verdict) -> str:
        """``verdict.json``: the document of ``ongpu run``."""
        run_id = str(Observed(observations).first("run.start").get("run_id"))
        return to_json("run", RunDocument(run_id=run_id, verdict=verdict, witnesses=verdict.witnesses))

    def readme(self, observations: Sequence[Observation], verdict: Verdict, files: Sequence[str]) -> str:
        """``README.md``."""
        seen = Observed(observations)
        return self._environment.get_template("README.md.j2").render(
            seen=seen,
            start=seen.first("run.start"),
            verdict=verdict,
            files=files,
            ranks=ranks(observations),
            foreign=foreign(observations),
            raw=_RAW,
            proven=Outcome.PROVEN,
            mark={Outcome.PROVEN: "x", Outcome.REFUTED: " ", Outcome.UNKNOWN: " "},
        )

    def issue(self, folder: Path) -> str:
        """``blocked/report.md``: what ``diagnose BUNDLE --markdown`` prints. The bundle redacts what it writes."""
        # The rules are a quarter of a second of every start that is not blocked.
        from ongpu.explain import read_case  # noqa: PLC0415
        from ongpu.report.diagnosis import diagnose_document  # noqa: PLC0415
        from ongpu.report.issue_text import issue_text  # noqa: PLC0415

        try:
            case = read_case(folder)
        except UsageError as error:  # a journal larger than a report reads: the bundle is sealed without one
            return f"No report: {error.message}\n"
        document = diagnose_document(case.told, source=case.log, case=case)
        return issue_text(document, redact=str, version=__version__, case=case)

    def recovered(
        self, folder: Path, observations: Sequence[Observation], verdict: Verdict, files: Sequence[str]
    ) -> Mapping[str, str]:
        """The pages that a run in ``folder`` which was cut off could not write, by name; of a block, its folder too."""
        blocked: dict[str, str] = {}
        if is_blocked(observations):
            if not any(one.kind == "files" for one in observations):  # else they are there, and bound by that record
                blocked.update(blocked_documents(observations, files))
            blocked[BLOCKED_REPORT] = self.issue(folder)
        readme = self.readme(observations, verdict, sorted({*files, *blocked}))
        return {
            **blocked,
            "README.md": f"{REHEARSED}\n\n{readme}" if verdict.simulated else readme,
            "verdict.json": self.verdict(observations, verdict),
        }
