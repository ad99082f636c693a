"""A lock for a machine that is planned for: exact versions and hashes of torch and all it needs, by uv.

uv resolves for the platform and Python of the plan, not of the machine it runs on; nothing is installed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ongpu.domain.build import Decision, DecisionKind
from ongpu.domain.machine import Machine
from ongpu.errors import BlockedError, DoorError, UsageError, WorkError
from ongpu.machine.process import Processes

FORMS: Final = {"pylock": "pylock.toml", "requirements": "requirements.txt"}
_SHOWN_LINES = 12


def lock_command(
    decision: Decision,
    machine: Machine,
    *,
    uv: str,
    source: str,
    form: str,
    python: str | None = None,
    find_links: str | None = None,
) -> tuple[str, ...]:
    """uv's words for a lock of the decision.

    :param source: the file with the requirements.
    :param form: ``pylock`` (PEP 751) or ``requirements`` (with hashes).
    :param python: an interpreter for uv to start with; without it uv goes looking, which can take seconds.
    :param find_links: a folder of wheels, for use without a network; no index is asked then.
    :raises UsageError: for an unknown form, or a Python that uv cannot lock for.
    """
    if form not in FORMS:
        raise UsageError(f"{form!r} is no form of a lock.", next_step="Use pylock or requirements.")
    if decision.python is None or decision.python.endswith("t"):
        raise UsageError(
            f"A lock for a free-threaded Python ({decision.python}) cannot be made: uv has no such target.",
            next_step="Plan for an ordinary Python, or install without a lock.",
        )
    words = [uv, "pip", "compile", source, "--no-header", "--no-annotate", "--generate-hashes", "--quiet"]
    words += ["--python-version", decision.python, "--python-platform", _platform(machine), "--only-binary", ":all:"]
    words += ["--format", FORMS[form]]
    if python is not None:
        words += ["--python", python]
    if find_links is not None:
        words += ["--no-index", "--find-links", find_links]
    elif decision.index_url is not None:
        words += ["--default-index", decision.index_url]
        if form == "requirements":
            words.append("--emit-index-url")  # the file is of no use without the index it was made from
    return tuple(words)


def lock(
    decision: Decision,
    machine: Machine,
    *,
    processes: Processes,
    uv: str,
    form: str = "pylock",
    also: Sequence[str] = (),
    python: str | None = None,
    find_links: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 300.0,
) -> str:
    """The text of a lock file for the decision's build, its requested companions and whatever it needs.

    :param also: more requirements to lock beside torch; torch itself stays pinned to the decision.
    :param env: uv's whole environment.
    :raises BlockedError: for a decision that chose no published build.
    :raises WorkError: where uv cannot resolve, with its own explanation; where torch is not in its answer as chosen.
    """
    if decision.decision is not DecisionKind.PREBUILT or decision.torch is None:
        cause = decision.cause.value if decision.cause else "undetermined"
        raise BlockedError("There is no published build to lock.", next_step=decision.next_step, cause=cause)
    if "--pre" in decision.command:
        raise UsageError("A nightly has no fixed version to lock.", next_step="Lock a stable build.")
    pinned = [word for word in decision.command if re.match(r"torch(vision|audio)?==", word)]
    with tempfile.TemporaryDirectory(prefix="ongpu-lock-") as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join([*pinned, *also]) + "\n", encoding="utf-8")
        words = lock_command(
            decision, machine, uv=uv, source=str(source), form=form, python=python, find_links=find_links
        )
        try:
            done = processes.run(words, timeout_s=timeout_s, env=env, cwd=Path(folder))
        except DoorError as error:
            raise WorkError(
                f"uv could not be started: {error.reason}.", next_step="Reinstall ongpu: it brings uv."
            ) from error
    if done.timed_out:
        raise WorkError(f"uv did not finish in {timeout_s:g} s.", next_step="Check the network, and try again.")
    if done.status != 0:
        lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()[-_SHOWN_LINES:]
        raise WorkError(
            f"uv cannot lock this: {' '.join(line.strip() for line in lines) or f'status {done.status}'}",
            next_step="Change the extra requirements, or check that the index can be reached.",
        )
    text = done.stdout.decode("utf-8", errors="replace")
    _held(text, decision)
    return text


def _held(text: str, decision: Decision) -> None:
    """The lock must name the chosen torch and have hashes: what uv answers is read, not believed."""
    version = re.escape(decision.torch or "")
    tag = f"(?:\\+{decision.cuda_tag})?" if decision.index_url is None else f"\\+{decision.cuda_tag}"
    entry = re.search(rf'(?m)^torch=={version}{tag}(?=\s)|^name = "torch"\s*\nversion = "{version}{tag}"', text)
    if entry is None:
        raise WorkError(
            f"uv's answer does not have torch {decision.torch}+{decision.cuda_tag}.",
            next_step="Check which index it asked: its configuration may name another one.",
        )
    if "sha256" not in text[entry.end() :].split("\n\n", 1)[0]:
        raise WorkError("uv's answer has no hash for torch.", next_step="Use an index that serves hashes.")


def _platform(machine: Machine) -> str:
    if machine.os == "windows":
        return f"{machine.arch}-pc-windows-msvc"
    found = re.match(r"2\.(\d+)", machine.glibc or "2.28")
    minor = int(found[1]) if found else 28
    return f"{machine.arch}-manylinux_2_{28 if minor >= 28 else 17}"
