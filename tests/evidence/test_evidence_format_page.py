"""The format page is exact: a second checker, written from it without the room's code, comes to the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ongpu.domain.judge import judge
from ongpu.domain.witness import Observation
from ongpu.evidence.archive import DEFAULT_LIMITS, is_plain
from ongpu.evidence.obligations import OBLIGATIONS

if TYPE_CHECKING:
    from tests.evidence.conftest import Samples

PAGE = Path(__file__).parents[2] / "docs" / "evidence-format.md"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def chained(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The records and the head, by the page's section on the journal."""
    records, head = [], "0" * 64
    data = (folder / "journal.jsonl").read_bytes()
    assert data.endswith(b"\n")
    for seq, line in enumerate(data[:-1].split(b"\n")):
        record = json.loads(line)
        assert set(record) == {"seq", "prev", "t_wall", "t_mono", "kind", "data"}
        assert (record["seq"], record["prev"]) == (seq, head)
        head = sha256(head.encode("ascii") + line)
        records.append(record)
    return records, head


def manifest(folder: Path, public_key: str | None) -> bytes:
    """The manifest's bytes, by the page's section on it."""
    records, head = chained(folder)
    first, last = records[0], records[-1]
    start = first["data"]
    text = "ongpu-run\n" + (start["nonce"] or "") + "\n" + start["run_salt"]
    assert start["run_id"] == sha256(text.encode())[:32]
    end = last["data"].get("end") if last["kind"] == "run.end" else None
    ended = end if end in {"completed", "failed", "interrupted", "blocked"} else "interrupted"
    simulated = start["simulated"] is not False or any(one["data"].get("simulated") for one in records)
    verdict = judge([Observation(**{key: one[key] for key in one if key != "prev"}) for one in records])
    outcome = verdict.outcome.value
    if outcome == "proven" and (simulated or ended != "completed"):
        outcome = "unknown"
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"manifest.json", "manifest.dsse.json"}
    )
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "urn:ongpu:run:v1",
        "subject": [{"name": name, "digest": {"sha256": sha256((folder / name).read_bytes())}} for name in names],
        "predicate": {
            **{name: start[name] for name in ("run_id", "profile", "tool_version", "nonce")},
            "simulated": simulated,
            "started_us": round(first["t_wall"] * 1e6),
            "duration_us": round((last["t_mono"] - first["t_mono"]) * 1e6),
            "ended": ended,
            "journal": {"name": "journal.jsonl", "records": len(records), "head": head},
            "sizes": {name: (folder / name).stat().st_size for name in names},
            "verdict": {
                "outcome": outcome,
                "level": verdict.level,
                "cause": verdict.cause.value if verdict.cause else None,
                "claims": [
                    {"id": one.id, "required": one.required, "outcome": one.outcome.value} for one in verdict.claims
                ],
                "witnesses": [
                    {"name": one.name, "level": one.level, "state": one.state.value} for one in verdict.witnesses
                ],
            },
            "level": "A1" if public_key else "A0",
            "signer": {"algorithm": "ed25519", "public_key": public_key} if public_key else None,
        },
    }
    return json.dumps(value, ensure_ascii=True, indent=1, sort_keys=True).encode() + b"\n"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"signed": True},
        {"simulated": True},
        {"ended": "failed"},
        {"nonce": "0123456789abcdef0123456789abcdef"},
        {"more": {"attachments/report.txt": "x", "verdict.txt": ""}},
    ],
    ids=["plain", "signed", "simulated", "failed", "challenged", "more files"],
)
def test_a_second_checker_comes_to_the_same_manifest(samples: Samples, options: dict[str, Any]) -> None:
    folder = samples.bundle("a", **options)
    public_key = samples.signer.public if options.get("signed") else None
    assert (folder / "manifest.json").read_bytes() == manifest(folder, public_key)
    assert samples.check(folder).problems == ()


def test_the_page_lists_the_obligations() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE))
    assert {int(number): text for number, text in rows.items()} == dict(OBLIGATIONS)


def test_the_page_states_the_limits() -> None:
    page = " ".join(PAGE.read_text("utf-8").split())
    limits = DEFAULT_LIMITS
    assert f"{limits.entries} files, {limits.total_bytes >> 20} MiB in all, {limits.journal_bytes >> 20} MiB" in page
    assert f"{limits.small_file_bytes >> 20} MiB for each" in page
    assert f"more than {limits.ratio} times" in page
    assert limits.seconds == 8.0
    assert is_plain("a/b/c/d")
    assert not is_plain("a/b/c/d/e")
