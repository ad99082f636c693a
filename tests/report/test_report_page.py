"""The page of a bundle: checked first, self-contained, inert whatever the bundle says, small however long it ran."""

from __future__ import annotations

import hashlib
import html
import html.parser
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ongpu.domain.judge import judge
from ongpu.domain.machine import Driver, DriverLibrary, Machine
from ongpu.domain.plain import plain
from ongpu.domain.verdict import Outcome
from ongpu.domain.witness import Observation
from ongpu.evidence.check import Answer, CheckReport
from ongpu.evidence.trust import Level
from ongpu.report.html import MAX_PAGE_BYTES, bundle_page, page, shown
from ongpu.report.pages import BundlePages
from ongpu.report.terminal import verdict
from ongpu.report.timeline import loss_chart, timeline
from tests.evidence.conftest import Samples
from tests.judge.judge_journals import GPU, OTHER_GPU, Guarded, Process, Run, Trace, cpu_process

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{7*7}}\u202e\x1b[31m"


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return Samples(root=tmp_path)


class _Elements(html.parser.HTMLParser):
    """What a browser makes of the page: every element with its attributes, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


def _data(page: str) -> dict[str, Any]:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block is not None
    found = json.loads(block[1])
    assert isinstance(found, dict)
    return found


def test_the_page_says_what_the_check_found_and_draws_what_was_read(samples: Samples) -> None:
    page, report = bundle_page(samples.bundle("one"))
    assert report.answer is Answer.ACCEPTED and report.verdict is not None
    assert f"{report.verdict.outcome.value}</span>" in page
    charts = {chart["id"]: chart for chart in _data(page)["charts"]}
    assert charts["memory"]["curves"][0]["y"][-1] == pytest.approx((160 + 518) / 1024, abs=1e-3)
    assert len(page.encode()) < 200_000


def test_a_refused_bundle_shows_its_refusal_and_nothing_of_its_contents(samples: Samples) -> None:
    folder = samples.bundle("one")
    (folder / "training_log.txt").write_text("another", "utf-8")
    page, report = bundle_page(folder)
    assert report.answer is Answer.REFUSED
    assert "Obligation 8" in page and "not to be believed" in page
    body = page.partition("</style>")[2]
    assert "H100" not in body and "<script" not in body and "proven" not in body


def test_a_rehearsal_says_so(samples: Samples) -> None:
    page, report = bundle_page(samples.bundle("one", simulated=True))
    assert report.answer is Answer.INSUFFICIENT and "REHEARSED" in page


def test_it_loads_nothing_and_runs_only_what_its_policy_names(samples: Samples) -> None:
    page, _ = bundle_page(samples.bundle("one"))
    elements = _Elements(page)
    policy = next(a["content"] for t, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") or name in {"style", "srcdoc"} for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    for script in elements.scripts[1:]:
        import base64

        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_every_string_of_a_hostile_bundle_is_inert(samples: Samples) -> None:
    folder = samples.bundle("one")
    plain_page, _ = bundle_page(folder)

    def poison(records: list[dict[str, Any]]) -> None:
        for record in records:
            data = record["data"]
            if record["kind"] == "run.start":
                data |= {"expect_gpu": HOSTILE, "tool_version": HOSTILE}
            if record["kind"] == "child.start":
                data["argv"] = [HOSTILE]
            if record["kind"] == "smoke":
                data["reason"] = HOSTILE
            for device in data.get("devices", []) if record["kind"] in {"machine", "hook"} else []:
                device |= {"name": HOSTILE, "compute_capability": HOSTILE}
        run_id = records[0]["data"]["run_id"]
        end = records.pop()
        body = {"run_id": run_id, "name": HOSTILE, "outcome": HOSTILE, "seconds": 1.0, "summary": HOSTILE}
        records.append(records[0] | {"kind": "phase", "data": body} | {k: end[k] for k in ("t_mono", "t_wall")})
        records.append(end)

    samples.forge(folder, poison)
    page, report = bundle_page(folder)
    assert report.answer is Answer.ACCEPTED, report.problems
    assert "alert(1)" in page, "the poison reached the page"
    before, after = _Elements(plain_page), _Elements(page)
    assert after.scripts[1:] == before.scripts[1:]
    assert {tag for tag, _ in after.found} <= {tag for tag, _ in before.found} | {"ul", "li"}
    assert not [tag for tag, attributes in after.found if tag == "img" or "onerror" in attributes]
    assert "\u202e" not in page and "\x1b" not in page and "49" not in shown("{{7*7}}")


def _report_of(observations: Sequence[Observation]) -> CheckReport:
    return CheckReport(
        path="x",
        answer=Answer.ACCEPTED,
        outcome=Outcome.UNKNOWN,
        level=Level.A0,
        required=None,
        problems=(),
        notes=(),
        not_proven=(),
        run_id="r1",
        simulated=False,
        verdict=judge(observations),
        claimed=None,
        signer=None,
        manifest_sha256=None,
    )


def test_a_blocked_run_begins_with_the_cause_and_the_next_step() -> None:
    blocked = {
        "phase": "probe",
        "cause": "no-gpu-visible",
        "reason": "none seen",
        "lines": ["a <b>"],
        "next_step": "do",
    }
    observations = Run(blocked=blocked, end="blocked").observations()
    text = page(_report_of(observations), observations, {}).partition("</header>")[0]
    assert "no-gpu-visible" in text and "Next: do" in text and "a &lt;b&gt;" in text


def _told(observations: Sequence[Observation]) -> list[Observation]:
    """With what the judge's short journals leave out and a page of ours asks for."""
    more = {"tool_version": "0"}
    named = {"name": "H100", "compute_capability": "9.0"}
    told = []
    for one in observations:
        data = {**one.data, **(more if one.kind == "run.start" else {})}
        if one.kind == "hook" and "devices" in data:
            data["devices"] = [{**named, **device} for device in data["devices"]]  # type: ignore[attr-defined]
        if one.kind == "machine":
            data["driver"] = {"cuda": None, **data["driver"]}  # type: ignore[dict-item]
        told.append(replace(one, data=data))
    return told


def test_ranks_and_foreign_libraries_are_on_both_pages() -> None:
    processes = [Process(pid=4243, rank=1, world_size=2, uuid=OTHER_GPU), cpu_process(pid=4242, rank=0, world_size=2)]
    fake = DriverLibrary(name="libnvidia-ml", path="/opt/fake/libnvidia-ml.so", version="999.9")
    driver = Driver(kernel_mode="580.159.04", loaded=True)
    machine = plain(Machine(os="linux", arch="x86_64", driver=driver, libraries=(fake,)))
    assert isinstance(machine, dict)
    guarded = Guarded(processes=processes, gpus=(GPU, OTHER_GPU))
    observations = Run(profile="run", guarded=guarded, machine=machine).observations()
    readme = BundlePages().readme(_told(observations), judge(observations), ["journal.jsonl"])
    assert "## Ranks" in readme and "| 0 of 2 | 4242 |" in readme and f"{OTHER_GPU}" in readme
    drawn = page(_report_of(observations), observations, {})
    assert "<h3>Ranks</h3>" in drawn and "4242" in drawn
    for text in (readme, drawn):
        assert "999.9" in text and "not that driver" in text
    alone = Run(profile="run").observations()
    assert "Ranks" not in BundlePages().readme(_told(alone), judge(alone), [])


def test_a_kernel_trace_is_on_both_pages_and_the_terminal() -> None:
    name = "void gemm<float>() | \u202e</td>[bold]"
    guarded = Guarded(processes=[Process(trace=Trace(name=name))], trace_steps=3)
    observations = Run(profile="run", guarded=guarded).observations()
    console = Console(width=2000, record=True, file=io.StringIO())
    console.print(verdict(judge(observations)))
    readme = BundlePages().readme(_told(observations), judge(observations), [])
    drawn = page(_report_of(observations), observations, {})
    for text in (readme, html.unescape(drawn), console.export_text()):
        assert "W5" in text and "120 kernels in steps 6 to 8" in text and "void gemm" in text, text
        assert "\u202e" not in text
    assert "</td>[bold]" not in drawn
    assert "device.\n\n" not in readme and "in a few of its steps.\n\n" in readme
    alone = Run(profile="run").observations()
    assert "W5" not in BundlePages().readme(_told(alone), judge(alone), [])
    assert "energy counter of the device.\n\n" in BundlePages().readme(_told(alone), judge(alone), [])


def test_a_bundle_full_of_text_stays_under_the_limit() -> None:
    observations = list(Run(profile="run").observations())
    body = {"name": "\u202e" * 5000, "outcome": "<" * 5000, "seconds": 1.0, "summary": "\x00" * 5000}
    error = {"role": "train", "n": 0, "t_mono": 1.0, "uuid": None, "what": "w", "code": "c", "reason": "&" * 5000}
    end = observations.pop()
    observations += [replace(end, kind="phase", data=body)] * 300
    observations += [replace(end, kind="nvml.error", data=error)] * 300
    text = page(_report_of([*observations[:-600], end]), [*observations, end], {})
    assert len(text.encode()) < MAX_PAGE_BYTES and "are in the journal" in text and "(5000 characters)" in text


def _samples(count: int) -> list[Observation]:
    devices = [
        {"uuid": f"GPU-{gpu}", "memory_used_bytes": 1 << 30, "utilization_percent": 5, "power_mw": 1, "processes": []}
        for gpu in range(12)
    ]
    return [
        Observation(seq=n, t_wall=float(n), t_mono=float(n), kind="nvml.sample", data={"n": n, "devices": devices})
        for n in range(count)
    ]


def test_a_night_of_readings_is_grouped_and_the_greatest_of_each_group_stays() -> None:
    observations = _samples(40_000)
    peak = {"uuid": "GPU-0", "memory_used_bytes": 9 << 30, "utilization_percent": None, "power_mw": "x"}
    observations[777] = Observation(
        seq=777, t_wall=777.0, t_mono=777.0, kind="nvml.sample", data={"devices": [peak], "t_mono": 777.0}
    )
    drawn = timeline(observations)
    memory = drawn.charts[0]
    assert len(memory.x) <= 1200 and memory.readings == 40_000 and memory.grouped > 1
    assert max(y for y in memory.curves[0].y if y is not None) == 9
    assert len(drawn.gpus) == 8
    assert len(json.dumps([[*chart.x, *(c.y for c in chart.curves)] for chart in drawn.charts])) < MAX_PAGE_BYTES / 2


def test_what_is_no_number_is_a_gap_and_hidden_processes_are_not_zero() -> None:
    rows: list[dict[str, Any]] = [
        {"uuid": "a", "memory_used_bytes": True, "power_mw": float("inf"), "processes": None},
        {"uuid": "a", "memory_used_bytes": 1 << 30, "power_mw": 1e300, "processes": [{"pid": 1, "used_bytes": None}]},
    ]
    observations = [
        Observation(seq=n, t_wall=0.0, t_mono=float(n), kind="nvml.sample", data={"devices": [row]})
        for n, row in enumerate(rows)
    ]
    charts = {chart.id: chart for chart in timeline(observations).charts}
    assert charts["memory"].curves[0].y == (None, 1.0)
    assert set(charts) == {"memory"}, "no power and no process was ever read"


def test_the_losses_of_both_runs_share_their_steps() -> None:
    here = b'{"step": 1, "loss": 2.0}\nnot json\n{"step": 2, "loss": NaN}\n[1]\n{"step": 3, "loss": 1.0}\n'
    chart = loss_chart({"this run": here, "the CPU": b'{"step": 1, "loss": 2.5}\n', "none": b""})
    assert chart is not None and chart.x == (1.0, 3.0)
    assert [curve.y for curve in chart.curves] == [(2.0, 1.0), (2.5, None)]
    assert loss_chart({"this run": b"\xff"}) is None


def test_the_chart_library_is_the_one_its_note_names() -> None:
    folder = resources.files("ongpu.report").joinpath("vendor")
    note = folder.joinpath("README.md").read_text("utf-8")
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        digest = hashlib.sha256(folder.joinpath("uplot", name).read_bytes()).hexdigest()
        assert f"{digest}  {name}" in note
