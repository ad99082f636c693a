"""The checker: what it accepts, and that each obligation can be broken and is then named."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ongpu.domain.verdict import Outcome
from ongpu.errors import UsageError
from ongpu.evidence import challenge, dsse
from ongpu.evidence.check import Answer, CheckReport
from ongpu.evidence.obligations import OBLIGATIONS
from ongpu.evidence.show import render, visible
from ongpu.evidence.trust import Level, TrustedKey, public_line, read_trust

if TYPE_CHECKING:
    from tests.evidence.conftest import Samples

NONCE = "0123456789abcdef0123456789abcdef"
Records = list[dict[str, Any]]


def broken(report: CheckReport) -> set[int]:
    """The obligations a report names; they exist, and the report refuses."""
    numbers = {one.obligation for one in report.problems}
    assert numbers <= OBLIGATIONS.keys()
    assert (report.answer is Answer.REFUSED) == bool(numbers)
    if numbers:
        assert report.exit_status == 1
        assert report.outcome is Outcome.REFUTED
        assert report.level is None
    return numbers


def test_an_honest_bundle_is_accepted(samples: Samples) -> None:
    report = samples.check(samples.bundle("a"))
    assert report.problems == ()
    assert (report.answer, report.outcome, report.level) == (Answer.ACCEPTED, Outcome.PROVEN, Level.A0)
    assert report.exit_status == 0
    assert report.verdict is not None
    assert any("could have made all of it" in words for words in report.not_proven)


def test_an_honest_refusal_to_prove_is_accepted_too(samples: Samples) -> None:
    report = samples.check(samples.bundle("a", ended="interrupted"))
    assert (report.answer, report.outcome, report.exit_status) == (Answer.ACCEPTED, Outcome.UNKNOWN, 0)


def test_a_simulated_bundle_is_never_enough(samples: Samples) -> None:
    report = samples.check(samples.bundle("a", simulated=True))
    assert (report.answer, report.outcome, report.exit_status) == (Answer.INSUFFICIENT, Outcome.UNKNOWN, 3)
    assert report.simulated is True
    assert "simulated" in render(report)


def test_below_the_required_level(samples: Samples) -> None:
    report = samples.check(samples.bundle("a"), require="A1")
    assert (report.answer, report.exit_status) == (Answer.INSUFFICIENT, 3)
    with pytest.raises(UsageError, match="A9"):
        samples.check(samples.root / "a", require="A9")


def test_a_missing_path_is_a_usage_error(samples: Samples) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        samples.check(samples.root / "nowhere")


def spoil_file(folder: Path) -> None:
    (folder / "training_log.txt").write_text("Using device: cuda\nall is well\n")


def edit_json(name: str, edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        edit(value)
        (folder / name).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")

    return spoil


def replace(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return spoil


SPOILS: list[tuple[str, set[int], Callable[[Path], object]]] = [
    ("extra file", {7}, lambda folder: (folder / "extra.txt").write_text("x")),
    ("hidden extra file", {2}, lambda folder: (folder / ".gitignore").write_text("x")),
    ("a git folder", {2}, lambda folder: (folder / ".git").mkdir()),
    ("empty folder", {2}, lambda folder: (folder / "sub").mkdir()),
    ("case twin", {2}, lambda folder: (folder / "ENV_INFO.TXT").write_text("x")),
    ("NFD name", {2}, lambda folder: (folder / "e\u0301nv.txt").write_text("x")),
    ("reserved name", {2}, lambda folder: (folder / "aux.txt").write_text("x")),
    ("newline in a name", {2}, lambda folder: (folder / "a\nb").write_text("x")),
    ("missing file", {7}, lambda folder: (folder / "env_info.txt").unlink()),
    ("renamed file", {7}, lambda folder: (folder / "env_info.txt").rename(folder / "env_info2.txt")),
    ("edited file", {8}, spoil_file),
    ("no manifest", {7}, lambda folder: (folder / "manifest.json").unlink()),
    ("no journal", {7}, lambda folder: (folder / "journal.jsonl").unlink()),
    ("symlink", {3}, lambda folder: (folder / "link").symlink_to("env_info.txt")),
    ("fifo", {3}, lambda folder: os.mkfifo(folder / "pipe")),
    ("twice a key", {5}, replace("manifest.json", b'"_type"', b'"_type": "x", "_type"')),
    ("NaN", {5}, replace("manifest.json", b'"records": ', b'"records": NaN, "x": ')),
    ("other statement", {6}, replace("manifest.json", b"in-toto.io/Statement/v1", b"in-toto.io/Statement/v2")),
    ("other predicate", {6}, replace("manifest.json", b"urn:ongpu:run:v1", b"urn:ongpu:run:v9")),
    ("other head", {11, 19}, edit_json("manifest.json", lambda value: value["predicate"]["journal"].update(records=3))),
    ("other run id", {12, 19}, edit_json("manifest.json", lambda value: value["predicate"].update(run_id="x"))),
    (
        "better verdict",
        {18, 19},
        edit_json("manifest.json", lambda value: value["predicate"]["verdict"].update(outcome="unknown")),
    ),
    ("other time", {19}, edit_json("manifest.json", lambda value: value["predicate"].update(started_us=1))),
    ("unknown field", {19}, edit_json("manifest.json", lambda value: value["predicate"].update(policy="lax"))),
    ("higher level", {19}, edit_json("manifest.json", lambda value: value["predicate"].update(level="A3"))),
    ("one more space", {19}, replace("manifest.json", b'"_type": ', b'"_type":  ')),
    ("junk envelope", {4}, lambda folder: (folder / "manifest.dsse.json").write_text("{}")),
]


@pytest.mark.parametrize(("obligations", "spoil"), [one[1:] for one in SPOILS], ids=[one[0] for one in SPOILS])
def test_what_a_hand_does_to_a_sealed_bundle(
    samples: Samples, obligations: set[int], spoil: Callable[[Path], object]
) -> None:
    folder = samples.bundle("a")
    spoil(folder)
    assert broken(samples.check(folder)) == obligations


def drop(kind: str) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        kept = [one for one in records if one["kind"] != kind]
        assert len(kept) < len(records)
        records[:] = kept

    return edit


def change(kind: str, **values: object) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        next(one for one in records if one["kind"] == kind)["data"].update(values)

    return edit


def swap_times(records: Records) -> None:
    records[3]["t_mono"], records[8]["t_mono"] = records[8]["t_mono"], records[3]["t_mono"]


def from_elsewhere(records: Records) -> None:
    """Where the platform hides processes, nothing but the tree ties the speaker to the command."""
    for record in records:
        if record["kind"] == "hook":
            record["data"]["pid"] = 31337
        for device in record["data"].get("devices", []) if record["kind"] in {"nvml.sample", "baseline"} else []:
            device["processes"] = None


OTHER_UUID = "GPU-99999999-9999-4999-8999-999999999999"
FORGERIES: list[tuple[str, int, Callable[[Records], None]]] = [
    ("no start", 12, drop("run.start")),
    ("no end", 12, drop("run.end")),
    ("two ends", 12, lambda records: records.append(dict(records[-1]))),
    ("two starts", 12, lambda records: records.insert(1, dict(records[0]))),
    ("end in the middle", 12, lambda records: records.insert(3, records.pop())),
    ("no run id", 12, change("run.start", run_id=None)),
    ("time goes back", 13, swap_times),
    ("reading from before the run", 13, change("hook", t_mono=17.0)),
    ("reading from after it", 13, change("hook", t_mono=9e9)),
    ("rebooted", 13, change("run.end", boot_id="another")),
    ("another GPU", 14, change("hook", uuid=OTHER_UUID)),
    ("another GPU in NVML", 14, change("nvml.sample", devices=[{"uuid": OTHER_UUID, "processes": None}])),
    ("another GPU as a key", 14, change("baseline", idle_w={OTHER_UUID: 1})),
    ("another driver", 14, change("nvml.sample", driver={"kernel_mode": "1.2.3"})),
    ("a process from elsewhere", 15, from_elsewhere),
    ("a role never started", 15, change("hook", role="cpu-comparison")),
    ("a role nobody knows", 18, change("hook", role="other")),
    ("started twice", 18, lambda records: records.insert(5, dict(records[4]))),
    ("a file recorded otherwise", 16, lambda records: records[-2]["data"]["files"][0].update(sha256="0" * 64)),
    ("a file recorded and gone", 16, lambda records: records[-2]["data"]["files"][0].update(name="gone.txt")),
    ("another run's id", 20, change("run.start", run_id="f" * 32)),
    ("no salt", 20, change("run.start", run_salt=None)),
    ("a nonce put in later", 20, change("run.start", nonce=NONCE)),
]


@pytest.mark.parametrize(("obligation", "edit"), [one[1:] for one in FORGERIES], ids=[one[0] for one in FORGERIES])
def test_a_forged_journal_that_was_chained_and_sealed_again(
    samples: Samples, obligation: int, edit: Callable[[Records], None]
) -> None:
    folder = samples.bundle("a")
    samples.forge(folder)
    assert broken(samples.check(folder)) == set(), "the forger's tool itself must give an acceptable bundle"
    samples.forge(folder, edit)
    assert obligation in broken(samples.check(folder))


@pytest.mark.parametrize("line", ["torn", "gap", "prev", "nan", "key"])
def test_a_journal_that_was_not_chained_again(samples: Samples, line: str) -> None:
    folder = samples.bundle("a")
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    match line:
        case "torn":
            lines[-1] = lines[-1][:-5]
        case "gap":
            del lines[4]
        case "prev":
            lines[5], lines[6] = lines[6], lines[5]
        case "nan":
            lines[4] = re.sub(rb'"start_time":[0-9.]+', b'"start_time":NaN', lines[4])
            assert b"NaN" in lines[4]
        case _:
            lines[3] = lines[3].replace(b'"role"', b'"role":1,"role"')
    journal.write_bytes(b"".join(lines))
    assert broken(samples.check(folder)) & {9, 10}


def test_text_of_another_run(samples: Samples) -> None:
    folder, other = samples.bundle("a", seed=1), samples.bundle("b", seed=2)
    shutil.copy(other / "README.md", folder / "README.md")
    samples.forge(folder)
    assert broken(samples.check(folder)) == {17}


def test_a_verdict_file_that_says_more(samples: Samples) -> None:
    folder = samples.bundle("a", ended="interrupted")
    run_id = json.loads((folder / "manifest.json").read_text())["predicate"]["run_id"]
    for outcome, expected in (("proven", {17}), ("unknown", set())):
        (folder / "verdict.json").write_text(json.dumps({"run_id": run_id, "verdict": {"outcome": outcome}}))
        samples.forge(folder)
        assert broken(samples.check(folder)) == expected


def test_pairwise_swaps_of_two_runs(samples: Samples) -> None:
    first, second = samples.bundle("a", seed=1, signed=True), samples.bundle("b", seed=2, signed=True)
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 8
    for name in names:
        for rehashed in (False, True):
            mixed = samples.copy(first, f"mixed-{name}-{rehashed}")
            shutil.copy(second / name, mixed / name)
            if rehashed and name not in {"manifest.json", "manifest.dsse.json"}:
                (mixed / "manifest.dsse.json").unlink()
                samples.forge(mixed)
            assert broken(samples.check(mixed)), name


def test_signatures(samples: Samples) -> None:
    folder = samples.bundle("a", signed=True)
    assert samples.check(folder).level is Level.A0
    report = samples.check(folder, trust=[samples.trust])
    assert (report.answer, report.level, report.signer) == (Answer.ACCEPTED, Level.A1, samples.signer.public)
    platform = TrustedKey(public=samples.signer.public, level=Level.A3, name="ci")
    assert samples.check(folder, trust=[platform], require="A3").level is Level.A3
    stranger = TrustedKey(public=dsse.generate().public, level=Level.A1, name="stranger")
    assert broken(samples.check(folder, trust=[stranger])) == {21}
    assert samples.check(samples.bundle("unsigned"), trust=[samples.trust]).exit_status == 3


def test_a_signature_cannot_be_dropped_replaced_or_reused(samples: Samples) -> None:
    folder = samples.bundle("a", signed=True)
    manifest, envelope = folder / "manifest.json", folder / "manifest.dsse.json"
    original, signed = manifest.read_bytes(), envelope.read_bytes()
    envelope.unlink()
    assert broken(samples.check(folder)) == {4}
    other = dsse.Signer(dsse.generate().private_pem)
    envelope.write_bytes(other.envelope(original))
    assert broken(samples.check(folder)) == {4}
    envelope.write_bytes(dsse.write_envelope(original, b"\0" * 64, dsse.keyid(samples.signer.public)))
    assert broken(samples.check(folder)) == {4}
    value = json.loads(signed)
    value["signatures"] *= 2
    envelope.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    assert broken(samples.check(folder)) == {4}
    for changed in (
        signed.replace(b"in-toto+json", b"in-toto+jsox"),
        signed + b" ",
        signed.replace(b'"sig"', b'"gis"'),
    ):
        envelope.write_bytes(changed)
        assert broken(samples.check(folder)) == {4}
    # Edited, hashed and written again, but nobody can sign it again.
    envelope.write_bytes(signed)
    spoil_file(folder)
    samples.forge(folder)
    assert 4 in broken(samples.check(folder))


def test_a_challenge(samples: Samples) -> None:
    folder = samples.bundle("a", signed=True, nonce=NONCE)
    report = samples.check(folder, trust=[samples.trust], nonce=NONCE, require="A2")
    assert (report.answer, report.level) == (Answer.ACCEPTED, Level.A2)
    assert samples.check(folder, trust=[samples.trust]).level is Level.A1
    assert broken(samples.check(folder, nonce="f" * 32)) == {20}
    assert broken(samples.check(samples.bundle("without"), nonce=NONCE)) == {20}
    unseeded = samples.bundle("unseeded", nonce=NONCE)

    def take_away(records: Records) -> None:
        child = next(one for one in records if one["kind"] == "child.start")
        child["data"]["argv"] = child["data"]["argv"][:-2]

    samples.forge(unseeded, take_away)
    assert broken(samples.check(unseeded, nonce=NONCE)) == {20}
    with pytest.raises(UsageError, match="nonce"):
        samples.check(folder, nonce="short")


def test_nonces_and_seeds() -> None:
    assert challenge.new_nonce() != challenge.new_nonce()
    assert challenge.check_nonce(f" {NONCE}\n") == NONCE
    assert 0 <= challenge.seed(NONCE) < 2**31
    assert challenge.seed(NONCE) != challenge.seed("f" * 32)


def test_keys_to_trust() -> None:
    public = dsse.generate().public
    line = public_line(public, name="lab  one")
    assert read_trust(line.encode()) == (TrustedKey(public=public, level=Level.A1, name="lab one"),)
    assert read_trust(f"# ours\n\nA3 {line}".encode())[0].level is Level.A3
    for bad in (b"", b"\xff", line.encode() * 2, b"A4 " + line.encode(), b"ongpu-ed25519 AAAA x", b"ssh-ed25519 AAAA"):
        with pytest.raises(UsageError, match=r"Line \d"):
            read_trust(bad)


def test_what_is_shown_is_inert(samples: Samples) -> None:
    shown = visible("a\x1b]8;;http://x\x07b\u202ec\u2028d\U000e0041 <b>é")
    assert not set(shown) & {"\x1b", "\x07", "\u202e", "\u2028", "\U000e0041"}
    assert shown.endswith("<b>é")
    text = render(samples.check(samples.bundle("a")))
    assert "proven" in text
    assert "What this does not prove" in text
    folder = samples.bundle("b")
    (folder / "x\x1b[2J").write_text("x")
    assert "\x1b" not in render(samples.check(folder))


def test_simulated_said_in_any_way_counts(samples: Samples) -> None:
    values: tuple[object, ...] = (True, [], {}, "no", 0, 1.5)
    for value in values:
        folder = samples.bundle(f"s{value!s:.3}".replace("[]", "list").replace("{}", "dict"))
        samples.forge(folder, change("machine", simulated=value))
        report = samples.check(folder)
        assert report.outcome is not Outcome.PROVEN
        assert report.exit_status in {1, 3}
