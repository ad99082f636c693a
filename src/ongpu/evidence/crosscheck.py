"""Whether the records of a journal can belong to one run on one machine, and its files to that run.

Every function yields problems and trusts nothing about shapes: a field that is missing or has another type is
simply not there. What a verdict needs is the judge's matter; here it is asked only whether things that are
there contradict each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ongpu.domain.verdict import Outcome
from ongpu.domain.witness import Observation
from ongpu.evidence import strict_json
from ongpu.evidence.challenge import run_id
from ongpu.evidence.obligations import Problem
from ongpu.evidence.statement import FileDigest, start_field

_UUID: Final = re.compile(r"(?:GPU-)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE)
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


def run(observations: Sequence[Observation], outcome: Outcome) -> Iterator[Problem]:
    """Obligations 13 to 15 and the run id of obligation 20, of a journal whose shape is right."""
    believed = _READ | _CLAIMED if outcome is Outcome.PROVEN else _READ
    found = (*_times(observations, believed), *_identities(observations, believed), *_tree(observations, outcome))
    for number, problem in enumerate(found):
        if number == _MAX_PROBLEMS:
            return
        yield problem
    salt, nonce = start_field(observations, "run_salt"), start_field(observations, "nonce")
    if salt is None:
        yield Problem(obligation=20, text="run.start has no run_salt, so the run id follows from nothing")
    elif run_id(salt=salt, nonce=nonce) != start_field(observations, "run_id"):
        yield Problem(obligation=20, text="the run id does not follow from the nonce and the salt")


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


def texts(observations: Sequence[Observation], kept: Mapping[str, bytes], outcome: Outcome) -> Iterator[Problem]:
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
    drivers = set(_named(observations, "kernel_mode"))
    said_drivers = {found.decode() for found in _DRIVER_LINE.findall(kept.get("nvidia_smi.txt", b""))}
    if drivers and not said_drivers <= drivers:
        yield Problem(obligation=17, text=f"nvidia_smi.txt names driver {min(said_drivers - drivers)}")


def _times(observations: Sequence[Observation], believed: frozenset[str]) -> Iterator[Problem]:
    begin = observations[0].t_mono
    before = begin
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
    boots = set(_named(observations, "boot_id"))
    if len(boots) > 1:
        yield Problem(obligation=13, text="the records name more than one boot id")


def _identities(observations: Sequence[Observation], believed: frozenset[str]) -> Iterator[Problem]:
    drivers = sorted(set(_named(observations, "kernel_mode")))
    if len(drivers) > 1:
        yield Problem(obligation=14, text=f"the records name drivers {drivers[0]!a} and {drivers[1]!a}")
    known: set[str] = set()
    for one in observations:
        if one.kind == "machine":
            known.update(_uuids(one.data))
    for one in observations:
        if known and one.kind in believed:
            for stranger in sorted(set(_uuids(one.data)) - known):
                yield Problem(obligation=14, text=f"record {one.seq}: GPU {stranger} is none of the machine's")


def _tree(observations: Sequence[Observation], outcome: Outcome) -> Iterator[Problem]:
    started = [one.data.get("role") for one in observations if one.kind == "child.start"]
    exited = [one.data.get("role") for one in observations if one.kind == "child.exit"]
    for role in sorted({str(role) for role in started}):
        if sum(str(one) == role for one in started) > 1 or sum(str(one) == role for one in exited) > 1:
            yield Problem(obligation=15, text=f"the role {role!a} was started or ended more than once")
    members: dict[str, set[int]] = {}
    for one in observations:
        role = str(one.data.get("role"))
        if one.kind in {"hook", "child.exit"} and one.data.get("role") not in started:
            yield Problem(obligation=15, text=f"record {one.seq}: {one.kind} of a role that was never started")
        elif one.kind in {"child.start", "tree"}:
            members.setdefault(role, set()).update(_pids(one.data))
    if outcome is not Outcome.PROVEN:
        # A process may begin and end between two looks at the tree. That is no contradiction; but nothing is
        # proven by a process that was never seen in it.
        return
    for one in observations:
        pid = one.data.get("pid")
        stepped = one.kind == "hook" and one.data.get("record") == "step"
        if stepped and isinstance(pid, int) and pid not in members.get(str(one.data.get("role")), set()):
            yield Problem(obligation=15, text=f"record {one.seq}: process {pid} is not in the recorded tree")


def _named(observations: Sequence[Observation], name: str) -> Iterator[str]:
    """Every text under the key ``name``, at any depth."""
    for one in observations:
        for key, value in _walk(one.data):
            if key == name and isinstance(value, str) and value:
                yield value


def _uuids(data: Mapping[str, object]) -> Iterator[str]:
    for key, value in _walk(data):
        for text in (key, value):
            found = _UUID.fullmatch(text) if isinstance(text, str) else None
            if found:
                yield found[1].lower()


def _pids(data: Mapping[str, object]) -> Iterator[int]:
    return (value for key, value in _walk(data) if key == "pid" and isinstance(value, int))


def _walk(data: object) -> Iterator[tuple[str, object]]:
    stack: list[tuple[str, object]] = [("", data)]
    while stack:
        key, value = stack.pop()
        yield key, value
        if isinstance(value, Mapping):
            stack.extend((str(name), child) for name, child in value.items())
        elif isinstance(value, list):
            stack.extend(("", child) for child in value)
