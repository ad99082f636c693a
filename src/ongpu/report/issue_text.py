"""A diagnosis as the text of an issue: Markdown that says what failed, where, why, and what was not tried.

Every line that came from a log or a bundle stands in a fence that it cannot close, and has gone through the
redactor that the caller gives; :func:`foreign` is the one for text of other machines, whose secrets nobody knows by
value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ongpu.explain import BundleCase
from ongpu.report.diagnosis import DiagnoseDocument, advice_text
from ongpu.report.pages import code, inert

_TAIL_LINES: Final = 60
_ENVIRONMENT_LINES: Final = 150
_LINE_CHARACTERS: Final = 400
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-9;:?<=>]{0,64}[ -/]{0,4}[@-~]?|\][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)?|.)?")

_FOREIGN: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), substitute)
    for pattern, substitute in (
        (
            r"(?i)\b(?P<keep>[A-Z0-9_-]{0,40}(?:token|secret|passw(?:or)?d|passphrase|credentials?|api_?key|access_?key)"
            r"['\"]?\s{0,3}[=:]\s{0,3}['\"]?)(?!<redacted)(?![\d.]+\b)(?=[^\s'\",;]*[0-9A-Z_-])[^\s'\",;]{6,}",
            r"\g<keep><redacted>",
        ),
        (r"(?i)(?P<keep>\b(?:bearer|basic)\s)[A-Za-z0-9._~+/=-]{12,}", r"\g<keep><redacted>"),
        (r"(?P<keep>/(?:home|Users)/)(?!<)[^/\s'\":]+", r"\g<keep><user>"),
        (r"(?P<keep>[\\/]Users[\\/]+)(?!<)[^\\/'\":<>|\n]{1,64}(?=[\\/])", r"\g<keep><user>"),
        (r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}\b", "<email>"),
        (r"(?m)(?P<keep>^\s{0,3}(?:\([^)\n]{1,40}\)\s{0,3})?)[\w.-]{1,32}@[\w.-]{1,64}(?=[:\s][^\n]{0,200}[$#%])",
         r"\g<keep><user>@<host>"),
        (r"\b(?:\d{1,3}\.){3}\d{1,3}(?=[:<]\d)", "<address>"),
        (r"\b(?:GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<gpu-uuid>"),
    )
)  # fmt: skip


def foreign(text: str) -> str:
    """``text`` without what a log of another machine may hold: assigned secrets, names of people, hosts, GPU UUIDs.

    Not caught: a secret that nothing beside it names, a host's name in running text.
    """
    for pattern, substitute in _FOREIGN:
        text = pattern.sub(substitute, text)
    return text


def issue_text(
    value: DiagnoseDocument, *, redact: Callable[[str], str], version: str, case: BundleCase | None = None
) -> str:
    """The issue, ending with a newline; its first line is its title. ``version`` is this tool's."""
    return "\n".join(_lines(value, lambda text: foreign(redact(text)), version, case)) + "\n"


def _lines(value: DiagnoseDocument, safe: Callable[[str], str], version: str, case: BundleCase | None) -> Iterator[str]:
    block = value.block
    where = f" in phase {inert(block.phase)}" if block else ""
    yield f"# {value.cause.value}{where}: {_sentence(inert(safe(block.reason if block else value.reason)))}"
    yield ""
    yield f"**Cause:** `{value.cause.value}` ({value.sure.value}). {_sentence(inert(safe(value.reason)))}"
    if value.findings:
        yield f"\nIt rests on these lines of {code(safe(value.source))}:\n"
        yield from _fenced((f"{one.line}: {one.text}" for one in value.findings), safe)
    if value.at_odds:
        yield "\n**At odds** (the build that is named, on the machine that is named):\n"
        yield from (f"- {inert(safe(one.axis))}: {inert(safe(one.reason))}" for one in value.at_odds)
    if value.rejected:
        yield "\n**Not taken for the cause:**\n"
        yield from (f"- `{one.cause.value}`: {inert(safe(one.reason))}" for one in value.rejected)
    if value.advised is not None:
        yield f"\n**A build:** {code(safe(advice_text(value.advised)))}"
    if value.question:
        yield f"\n**What would decide it:** {inert(safe(value.question))}"
    yield f"\n**Next:** {inert(safe(value.next_step))}"
    if value.not_tried:
        yield "\n## Not tried, and why\n"
        yield from (f"- {inert(safe(one))}" for one in value.not_tried)
    if case is not None:
        yield from _of_bundle(case, safe)
    else:
        yield from _named(value, safe)
    yield (
        f"\nWritten by `ongpu diagnose --markdown` ({inert(version)}). Secrets and names were removed by rules, which "
        "cannot know all of them: read it before you post it."
    )


def _of_bundle(case: BundleCase, safe: Callable[[str], str]) -> Iterator[str]:
    start = case.first("run.start")
    yield "\n## What ran\n"
    argv = start.get("argv")
    words = " ".join(str(word) for word in argv) if isinstance(argv, list) else "unknown"
    yield f"- command: {code(safe(words))}"
    yield f"- ongpu {inert(safe(str(start.get('tool_version'))))}, run {code(safe(str(start.get('run_id'))))}"
    yield f"- ended: {inert(case.end or 'never sealed')}"
    if case.verdict is not None:
        yield f"- verdict: {case.verdict.outcome.value}. {_sentence(inert(safe(case.verdict.reason)))}"
    if start.get("simulated"):
        yield "- rehearsed on a described machine: nothing here was observed on a GPU"
    for one in case.observations:
        if one.kind == "phase":
            summary = inert(safe(str(one.data.get("summary", ""))))
            yield f"- phase {inert(safe(str(one.data.get('name'))))}: {inert(str(one.data.get('outcome')))}: {summary}"
    if case.environment is not None:
        yield "\n## Environment\n"
        lines = case.environment.splitlines()
        yield from _folded("env_info.txt", lines[:_ENVIRONMENT_LINES], len(lines), safe)
    if case.logs:
        yield "\n## Logs"
    for log in case.logs:
        lines = [line for line in log.text.replace("\r\n", "\n").splitlines() if line.strip()]
        yield f"\nThe end of {code(log.name)} ({log.size_bytes} bytes):\n"
        yield from _folded(log.name, lines[-_TAIL_LINES:], len(lines), safe)


def _named(value: DiagnoseDocument, safe: Callable[[str], str]) -> Iterator[str]:
    facts = value.facts
    rows = (
        ("GPU", facts.gpus),
        ("compute capability", facts.compute_capabilities),
        ("kernel-mode driver version", facts.driver_versions),
        ("CUDA driver version", facts.cuda_driver_versions),
        ("torch", facts.torch_versions),
        ("CUDA runtime version", facts.cuda_runtime_versions),
        ("Python", facts.python_versions),
        ("platform", (facts.platform,) if facts.platform else ()),
    )
    yield "\n## What the log says of the machine\n"
    known = [f"- {name}: {code(safe(', '.join(values)))}" for name, values in rows if values]
    yield from known or ["Nothing."]


def _folded(name: str, lines: list[str], total: int, safe: Callable[[str], str]) -> Iterator[str]:
    cut = f", {len(lines)} of {total} lines" if total > len(lines) else ""
    yield f"<details><summary>{inert(name)}{cut}</summary>\n"
    yield from _fenced(lines, safe)
    yield "\n</details>"


def _fenced(lines: Iterable[str], safe: Callable[[str], str]) -> Iterator[str]:
    """The lines in a fence longer than any run of backticks in them."""
    text = safe("\n".join(_ESCAPES.sub("", line) for line in lines))
    shown = [
        "".join(char if char.isprintable() else " " for char in line)[:_LINE_CHARACTERS] for line in text.split("\n")
    ]
    longest = max((len(run) for line in shown for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}text"
    yield from shown
    yield fence


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
