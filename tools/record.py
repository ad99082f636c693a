"""Make a recording of this machine's doors, for tests and rehearsals.

    python tools/record.py tests/recordings/NAME.json [--title TEXT] [--python PY] [--no-smoke]

Runs the probe, reads NVML once as ``nvidia_smi.txt`` does, asks ``nvidia-smi`` for its text, and runs the smoke checks
in the environment of ``--python`` (default: the Python that runs this), all through the real doors, and writes down
every call with its answer or its error. Host name, home folder, checkout, environment and temporary paths, user name
and every UUID are replaced (the same UUID by the same stand-in) before anything is written.
"""

from __future__ import annotations

import argparse
import getpass
import os
import platform
import re
import socket
import sys
import tempfile
from pathlib import Path

from ongpu.errors import DoorError
from ongpu.machine.host import RealHost
from ongpu.machine.nvml import open_nvml
from ongpu.machine.process import RealProcesses
from ongpu.machine.recording import Book, RecordingHost, RecordingProcesses, recorded_opening
from ongpu.machine.smi import nvidia_smi_text, read_nvml
from ongpu.probe import VARIABLES, probe
from ongpu.smoke import run_smoke

KEPT = frozenset(VARIABLES) | {"PATH", "container", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "HOME"}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)

# The parts of a control group's path that name no engine of containers may name whatever runs the machine.
_CGROUP = re.compile(r"/(?!docker|kubepods|lxc|libpod|machine|system|user|init)[\w.:-]+")


def pseudonymised(text: str, *, python: Path) -> str:
    """The recording without what names this machine or its user."""
    stands = {
        str(Path(__file__).resolve().parents[1]): "/checkout",
        str(python.parent.parent): "/environment",
        sys.prefix: "/tool",
        # Below the home folder its name is needed: the replay finds it there again.
        "/" if sys.base_prefix.startswith(str(Path.home())) else sys.base_prefix: "/base",
        str(Path.home()): "/home/user",
        tempfile.gettempdir() + "/": "/tmp/",
    }
    for real in sorted(stands, key=len, reverse=True):
        if real not in {"/", "/usr", "/tmp/"}:
            text = text.replace(real, stands[real])
    text = re.sub(r"\((?:[\w.-]+@[\w.-]*)\)", "(builder@host)", text)  # who built the kernel module
    text = re.sub(r"(\d+:[\w=,.]*:)((?:/[\w.:-]+)+)", lambda found: found[1] + _CGROUP.sub("/group", found[2]), text)
    release = platform.release()
    if "microsoft" not in release:  # what follows the number may name whoever built the kernel
        text = text.replace(release, release.split("-")[0])
    host = socket.gethostname()
    if len(host) > 3:
        text = re.sub(rf"\b{re.escape(host)}\b", "host-1", text)
    user = getpass.getuser()
    if user != "root":
        text = re.sub(rf"\b{re.escape(user)}\b", "user", text)
    seen: dict[str, str] = {}

    def stand_in(found: re.Match[str]) -> str:
        return seen.setdefault(found[0].lower(), f"00000000-0000-4000-8000-{len(seen) + 1:012d}")

    return _UUID.sub(stand_in, text)


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("output", type=Path)
    parser.add_argument("--title")
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--no-smoke", action="store_true")
    arguments = parser.parse_args()
    environment = dict(os.environ)
    book = Book()
    usual = ("/usr/", "/bin", "/sbin", str(Path.home()))
    path = ":".join(one for one in environment.get("PATH", "").split(":") if one.startswith(usual))
    host = RecordingHost(RealHost({**environment, "PATH": path}), book, variables=KEPT)
    rest = {name: value for name, value in environment.items() if name not in KEPT}
    processes = RecordingProcesses(RealProcesses(), book, rest=rest)
    real = RealProcesses()
    opener = recorded_opening(
        lambda: open_nvml(real, python=Path(sys.executable), environment=environment, timeout_s=20), book
    )
    machine = probe(nvml=opener, processes=processes, host=host, python=arguments.python)
    print(machine)
    try:
        print(nvidia_smi_text(processes))
    except DoorError as error:
        print(error)
    nvml = None
    try:
        nvml = opener()
        print(read_nvml(nvml))
    except DoorError as error:
        print(error)
    if not arguments.no_smoke:
        uuid = machine.devices[0].uuid if machine.devices else None
        report = run_smoke(python=arguments.python, uuid=uuid, nvml=nvml, processes=processes, environment=environment)
        for check in report.checks:
            print(check)
    if nvml is not None:
        nvml.close()
    book.take("note", "python", [], lambda: str(arguments.python))  # where a replay finds the environment looked at
    title = arguments.title or ", ".join(one.name for one in machine.devices) or "a machine without a GPU"
    arguments.output.write_text(pseudonymised(book.text(title=title), python=arguments.python), "utf-8")
    print(f"wrote {arguments.output}: {len(book.calls)} calls")


if __name__ == "__main__":
    main()
