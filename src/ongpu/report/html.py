"""One self-contained HTML page of a bundle, for people who look: no external load, no text of the bundle alive.

The bundle is checked first, as a stranger's; a refused one gives a page that says so and shows nothing else of it.
Every value goes through Jinja's autoescape with invisible characters spelled out; the page's own script and style are
named by their digests in its Content-Security-Policy, so that nothing else can run even if that failed.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from ongpu import __version__
from ongpu.domain.ranks import RankRow, ranks
from ongpu.domain.witness import Observation
from ongpu.errors import RefusedError
from ongpu.evidence.archive import ArchiveError, Contents, read_bundle
from ongpu.evidence.chain import read_journal
from ongpu.evidence.check import Answer, CheckReport, check
from ongpu.evidence.show import visible
from ongpu.evidence.statement import JOURNAL_NAME, MANIFEST_NAME
from ongpu.evidence.trust import TrustedKey
from ongpu.report.pages import Observed, foreign
from ongpu.report.timeline import Chart, loss_chart, timeline

MAX_PAGE_BYTES: Final = 1_500_000
_METRICS: Final = {"metrics.jsonl": "this run", "cpu_comparison_metrics.jsonl": "the same steps on the CPU"}
_CHUNK: Final = 400
# Rows of a table and characters of a text; the second where a bundle is so full that the first would be too large.
_LIMITS: Final = ((200, 4000), (10, 400))
_TABLE_ROWS: Final = 60


def bundle_page(path: Path, *, require: str | None = None, trust: Sequence[TrustedKey] = ()) -> tuple[str, CheckReport]:
    """Check the bundle at ``path`` and render it; the report says how the check ended.

    :raises UsageError: the path does not exist, or the level is none.
    :raises RefusedError: the bundle was changed between the check and the reading.
    """
    report = check(path, require=require, trust=trust)
    if report.answer is Answer.REFUSED:
        return page(report, (), {}), report
    try:
        contents = read_bundle(path, also_keep=frozenset(_METRICS))
    except ArchiveError as error:
        raise _changed(path) from error
    if not _is_what_was_checked(contents, report):
        raise _changed(path)
    texts = {word: contents.kept[name] for name, word in _METRICS.items() if name in contents.kept}
    return page(report, read_journal(contents.kept[JOURNAL_NAME]), texts), report


def _is_what_was_checked(contents: Contents, report: CheckReport) -> bool:
    """Whether the bytes read now are those that the manifest lists, and it is the manifest that was believed."""
    manifest = contents.kept.get(MANIFEST_NAME, b"")
    if hashlib.sha256(manifest).hexdigest() != report.manifest_sha256:
        return False
    listed = {one["name"]: one["digest"]["sha256"] for one in json.loads(manifest)["subject"]}
    return all(name in contents.files and contents.files[name].sha256 == digest for name, digest in listed.items())


def _changed(path: Path) -> RefusedError:
    return RefusedError(
        f"{path} was changed while it was being read.", next_step="Find what writes into it, then run it again."
    )


def page(report: CheckReport, observations: Sequence[Observation], metrics: Mapping[str, bytes]) -> str:
    """The page of a checked bundle. Of a refused one only the refusal is shown: nothing of it is to be believed.

    :param observations: the journal; empty for a refused bundle.
    :param metrics: the bytes of each ``metrics.jsonl``, by the word for its curve.
    """
    for max_rows, max_text in _LIMITS:
        text = _render(report, observations, metrics, max_rows=max_rows, max_text=max_text)
        if len(text.encode()) <= MAX_PAGE_BYTES:
            break
    return text


def _render(
    report: CheckReport,
    observations: Sequence[Observation],
    metrics: Mapping[str, bytes],
    *,
    max_rows: int,
    max_text: int,
) -> str:
    environment, assets = _environment(max_text)
    drawn = timeline(observations) if observations else None
    loss = loss_chart(metrics)
    charts = [*(drawn.charts if drawn else ()), *((loss,) if loss else ())]
    spans = [asdict(span) for span in drawn.spans] if drawn else []
    values: dict[str, Any] = {
        "report": report,
        "verdict": report.verdict if observations else None,
        "seen": Observed(observations),
        "version": __version__,
        "charts": charts,
        "drawn": drawn,
        "rows": _rows(observations),
        "foreign": foreign(observations),
        "problems": _problems(observations),
        "data": {"charts": [asdict(chart) for chart in charts], "spans": spans},
        "assets": assets,
        "max_rows": max_rows,
        "table": _table,
        "speed": _speed(Observed(observations)),
    }
    return environment.get_template("report.html.j2").render(values)


def _rows(observations: Sequence[Observation]) -> tuple[RankRow, ...]:
    return ranks(observations) if observations else ()


def _problems(observations: Sequence[Observation]) -> list[str]:
    """What went wrong or could not be read, in the order it happened."""
    found = []
    for one in observations:
        data = one.data
        match one.kind:
            case "nvml.error":
                found.append(f"record {one.seq}: NVML: {data.get('what')}: {data.get('code')}: {data.get('reason')}")
            case "blocked":
                found.append(f"record {one.seq}: blocked in phase {data.get('phase')}: {data.get('reason')}")
            case "child.exit" if data.get("status") != 0 or data.get("stopped"):
                why = data.get("stopped_reason") or data.get("signal") or f"exit status {data.get('status')}"
                found.append(f"record {one.seq}: the command ({data.get('role')}) ended with {why}")
            case "guard.end":
                named = {"sampler_error": "the sampler", "log_error": "the log"}
                found += [f"record {one.seq}: {word}: {data[key]}" for key, word in named.items() if data.get(key)]
            case "recovered":
                found.append(f"record {one.seq}: the run crashed and was sealed afterwards, as interrupted")
            case _:
                pass
    return found


def _speed(seen: Observed) -> list[tuple[str, str, str | None]]:
    """The CPU comparison: what was measured, here, and on the CPU."""
    here, there = seen.metrics("train"), seen.metrics("cpu-comparison")
    if not here.get("steps"):
        return []
    rows = [
        ("steps", "steps", "{:.0f}", 1.0),
        ("tokens/s, median after the warm-up", "tokens_per_s_median", "{:.0f}", 1.0),
        ("ms a step, median after the warm-up", "step_seconds_median", "{:.2f}", 1000.0),
        ("loss of the first step", "loss_first", "{:.4f}", 1.0),
        ("loss of the last step", "loss_last", "{:.4f}", 1.0),
    ]
    compared = bool(there.get("steps"))
    return [
        (words, _figure(here.get(key), form, factor), _figure(there.get(key), form, factor) if compared else None)
        for words, key, form, factor in rows
    ]


def _figure(value: object, form: str, factor: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "not observed"
    return form.format(value * factor)


def _table(chart: Chart) -> list[tuple[str, list[str]]]:
    """A chart's points as rows of text, evenly picked: what the charts say, for those who do not see them."""
    size = math.ceil(len(chart.x) / _TABLE_ROWS)
    return [
        (f"{chart.x[at]:g}", ["" if curve.y[at] is None else f"{curve.y[at]:g}" for curve in chart.curves])
        for at in range(0, len(chart.x), max(size, 1))
    ]


def shown(value: object, max_text: int = _LIMITS[0][1]) -> str:
    """One line of text without a control, invisible or direction-changing character; the template escapes the rest."""
    if value is None or isinstance(value, jinja2.Undefined):
        return "not observed"
    text = str(value)
    cut = text[:max_text]
    spelled = "".join(visible(cut[at : at + _CHUNK]).replace("<U+0020>", " ") for at in range(0, len(cut), _CHUNK))
    return spelled if len(text) <= max_text else f"{spelled} ... ({len(text)} characters)"


def _quoted(argv: object) -> str:
    return shlex.join(str(word) for word in argv) if isinstance(argv, list) else "not observed"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _environment(max_text: int) -> tuple[jinja2.Environment, dict[str, Markup]]:
    """The template, and its scripts and style: our own files, so they are markup and nothing of a bundle is."""
    room = resources.files("ongpu.report")
    templates = room.joinpath("templates")

    def text(*parts: str) -> str:
        return room.joinpath(*parts).read_text("utf-8").strip()

    style = text("vendor", "uplot", "uPlot.min.css") + "\n" + text("templates", "report.css")
    library, script = text("vendor", "uplot", "uPlot.iife.min.js"), text("templates", "report.js")
    policy = (
        f"default-src 'none'; script-src '{_digest(library)}' '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    assets = {"style": style, "library": library, "script": script, "policy": policy}
    made = jinja2.Environment(
        loader=jinja2.DictLoader({"report.html.j2": templates.joinpath("report.html.j2").read_text("utf-8")}),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(shown=functools.partial(shown, max_text=max_text), quoted=_quoted)
    return made, {name: Markup(value) for name, value in assets.items()}  # noqa: S704 - our own files
