"""Whether the records of a journal can belong to one run on one machine, and its files to that run.

Every function yields problems and trusts nothing about shapes: a field that is missing or has another type is
simply not there. What a verdict needs is the judge's matter; here it is asked only whether things that are
there contradict each other.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ongpu.domain.verdict import Outcome
from ongpu.domain.witness import Observation
from ongpu.evidence import strict_json
from ongpu.evidence.chain import STREAMED
from ongpu.evidence.challenge import run_id
from ongpu.evidence.obligations import Problem
from ongpu.evidence.statement import FileDigest, start_field

_UUID: Final = re.compile(r"(?:GPU-)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE)
_UUID_LENGTHS: Final = frozenset({36, 40})
_DRIVER_LINE: Final = re.compile(rb"Driver Version\s*:\s*([0-9][0-9.]*)")
# What the supervisor read from the driver; and what a child of the run said, which could say anything. A child's
# word makes a bundle wrong only where something was proven: otherwise it is an honest record of an odd program.
_READ: Final = frozenset({"baseline", "nvml.sample", "energy"})
_CLAIMED: Final = frozenset({"smoke", "hook"})
# Clocks of several processes are read one after the other; a second covers the scheduling between them.
_CLOCK_SLACK_S: Final = 1.0
_MAX_PROBLEMS: Final = 20


def shape(observations: Sequence[Observation]) -> Iterator[Problem]:
    """Obligation 12, without the manifest's part of it."""
    if not observations or observations[0].kind != "run.start":
        yield Problem(obligation=12, text="the journal does not begin with run.start")
        return
    if start_field(observations, "run_id") is None:
        yield Problem(obligation=12, text="run.start names no run id")
    if sum(one.kind == "run.start" for one in observations) > 1:
        yield Problem(obligation=12, text="there is more than one run.start")
    ends = [one.seq for one in observations if one.kind == "run.end"]
    recovered = [one.seq for one in observations if one.kind == "recovered"]
    last = len(observations) - 1
    if len(recovered) > 1 or (recovered and recovered[0] != last):
        yield Problem(obligation=12, text="a recovered run does not end with its one record of that")
    elif not recovered and ends != [last]:
        yield Problem(obligation=12, text="the journal does not end with its one run.end")
    elif recovered and ends not in ([], [last - 1]):
        yield Problem(obligation=12, text="run.end stands within the run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What one record names, at any depth of its data."""

    drivers: frozenset[str]
    boots: frozenset[str]
    gpus: frozenset[str]
    pids: frozenset[int]


def names(observations: Sequence[Observation]) -> tuple[Named, ...]:
    """What each record names."""
    return tuple(_names(one.data) for one in observations)


def run(observations: Sequence[Observation], named: Sequence[Named], outcome: Outcome) -> Iterator[Problem]:
    """Obligations 12 to 15 and the run id of obligation 20, of a journal whose shape is right."""
    believed = _READ | _CLAIMED if outcome is Outcome.PROVEN else _READ
    found = itertools.chain(
        _run_ids(observations),
        _times(observations, named, believed),
        _identities(observations, named, believed),
        _tree(observations, named, outcome),
    )
    yield from itertools.islice(found, _MAX_PROBLEMS)


def drivers(observations: Sequence[Observation], named: Sequence[Named]) -> frozenset[str]:
    """Every kernel-mode driver version that a record of the supervisor names."""
    pairs = zip(observations, named, strict=True)
    return frozenset[str]().union(*(names.drivers for one, names in pairs if one.kind != "hook"))


def files(observations: Sequence[Observation], present: Mapping[str, FileDigest]) -> Iterator[Problem]:
    """Obligation 16: the latest digest the journal recorded of each file is the one the bundle holds."""
    recorded: dict[str, FileDigest] = {}
    for one in observations:
        if one.kind == "files":
            recorded.update(recorded_files(one.data))
    for name, digest in recorded.items():
        if name not in present:
            yield Problem(obligation=16, text=f"{name!a}, which the journal recorded, is missing")
        elif present[name] != digest:
            yield Problem(obligation=16, text=f"{name!a} is not the file that the journal recorded")


def recorded_files(data: Mapping[str, object]) -> dict[str, FileDigest]:
    """The files of one ``files`` observation, those entries that are complete."""
    listed = data.get("files")
    found = {}
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict):
            name, size, sha256 = entry.get("name"), entry.get("size_bytes"), entry.get("sha256")
            if isinstance(name, str) and isinstance(size, int) and isinstance(sha256, str):
                found[name] = FileDigest(size_bytes=size, sha256=sha256)
    return found


def texts(
    observations: Sequence[Observation], known: frozenset[str], kept: Mapping[str, bytes], outcome: Outcome
) -> Iterator[Problem]:
    """Obligation 17: what people read names this run, this verdict and this driver."""
    identity = start_field(observations, "run_id") or ""
    for name in ("README.md", "verdict.json"):
        if name in kept and identity.encode() not in kept[name]:
            yield Problem(obligation=17, text=f"{name} does not name the run {identity[:80]!a}")
    if "verdict.json" in kept:
        try:
            document = strict_json.parse_object(kept["verdict.json"])
        except strict_json.StrictJsonError as error:
            yield Problem(obligation=17, text=f"verdict.json: {error}")
        else:
            verdict = document.get("verdict")
            said = verdict.get("outcome") if isinstance(verdict, dict) else None
            if said != outcome.value:
                yield Problem(obligation=17, text=f"verdict.json says {said!a}, the journal gives {outcome.value}")
    said_drivers = {found.decode() for found in _DRIVER_LINE.findall(kept.get("nvidia_smi.txt", b""))}
    if known and not said_drivers <= known:
        yield Problem(obligation=17, text=f"nvidia_smi.txt names driver {min(said_drivers - known)}")


def _run_ids(observations: Sequence[Observation]) -> Iterator[Problem]:
    identity = start_field(observations, "run_id")
    salt, nonce = start_field(observations, "run_salt"), start_field(observations, "nonce")
    if salt is None:
        yield Problem(obligation=20, text="run.start has no run_salt, so the run id follows from nothing")
    elif run_id(salt=salt, nonce=nonce) != identity:
        yield Problem(obligation=20, text="the run id does not follow from the nonce and the salt")
    for one in observations:
        if one.kind not in STREAMED and one.data.get("run_id") != identity:
            yield Problem(obligation=12, text=f"record {one.seq}: {one.kind} is not of this run")


def _times(observations: Sequence[Observation], named: Sequence[Named], believed: frozenset[str]) -> Iterator[Problem]:
    begin = before = observations[0].t_mono
    for one in observations:
        if one.t_mono < before:
            yield Problem(obligation=13, text=f"record {one.seq}: the monotonic time goes back")
        before = one.t_mono
        taken = one.data.get("t_mono")
        inside = (
            one.kind not in believed
            or not isinstance(taken, float)
            or begin - _CLOCK_SLACK_S <= taken <= one.t_mono + _CLOCK_SLACK_S
        )
        if not inside:
            yield Problem(obligation=13, text=f"record {one.seq}: its reading was taken outside the run")
    if len(frozenset[str]().union(*(one.boots for one in named))) > 1:
        yield Problem(obligation=13, text="the records name more than one boot id")


def _identities(
    observations: Sequence[Observation], named: Sequence[Named], believed: frozenset[str]
) -> Iterator[Problem]:
    pairs = list(zip(observations, named, strict=True))
    versions = sorted(drivers(observations, named))
    if len(versions) > 1:
        yield Problem(obligation=14, text=f"the records name drivers {versions[0]!a} and {versions[1]!a}")
    known = frozenset[str]().union(*(names.gpus for one, names in pairs if one.kind == "machine"))
    for one, names in pairs:
        if known and one.kind in believed:
            for stranger in sorted(names.gpus - known):
                yield Problem(obligation=14, text=f"record {one.seq}: GPU {stranger} is none of the machine's")


def _tree(observations: Sequence[Observation], named: Sequence[Named], outcome: Outcome) -> Iterator[Problem]:
    started = [one.data.get("role") for one in observations if one.kind == "child.start"]
    exited = [one.data.get("role") for one in observations if one.kind == "child.exit"]
    for role in sorted({str(role) for role in started}):
        if sum(str(one) == role for one in started) > 1 or sum(str(one) == role for one in exited) > 1:
            yield Problem(obligation=15, text=f"the role {role!a} was started or ended more than once")
    members: dict[str, set[int]] = {}
    for one, names in zip(observations, named, strict=True):
        role = str(one.data.get("role"))
        if one.kind in {"hook", "child.exit"} and one.data.get("role") not in started:
            yield Problem(obligation=15, text=f"record {one.seq}: {one.kind} of a role that was never started")
        elif one.kind in {"child.start", "tree"}:
            members.setdefault(role, set()).update(names.pids)
    if outcome is not Outcome.PROVEN:
        # A process may begin and end between two looks at the tree. That is no contradiction; but nothing is
        # proven by a process that was never seen in it.
        return
    for one in observations:
        pid = one.data.get("pid")
        stepped = one.kind == "hook" and one.data.get("record") == "step"
        if stepped and isinstance(pid, int) and pid not in members.get(str(one.data.get("role")), set()):
            yield Problem(obligation=15, text=f"record {one.seq}: process {pid} is not in the recorded tree")


def _names(data: Mapping[str, object]) -> Named:
    drivers_named: set[str] = set()
    boots: set[str] = set()
    gpus: set[str] = set()
    pids: set[int] = set()
    for key, value in _walk(data):
        if isinstance(value, str):
            if key == "kernel_mode" and value:
                drivers_named.add(value)
            elif key == "boot_id" and value:
                boots.add(value)
            gpus.update(_gpu(value))
        elif key == "pid" and isinstance(value, int):
            pids.add(value)
        gpus.update(_gpu(key))
    return Named(drivers=frozenset(drivers_named), boots=frozenset(boots), gpus=frozenset(gpus), pids=frozenset(pids))


def _gpu(text: str) -> tuple[str, ...]:
    found = _UUID.fullmatch(text) if len(text) in _UUID_LENGTHS else None
    return (found[1].lower(),) if found else ()


def _walk(data: object) -> Iterator[tuple[str, object]]:
    stack: list[tuple[str, object]] = [("", data)]
    while stack:
        key, value = stack.pop()
        yield key, value
        if isinstance(value, Mapping):
            stack.extend((str(name), child) for name, child in value.items())
        elif isinstance(value, list):
            stack.extend(("", child) for child in value if not isinstance(child, (int, float)))
