"""The Python interpreters of a host: found where they are usually put, and asked who they are."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ongpu.domain.machine import PythonInstall, Unavailable
from ongpu.errors import DoorError
from ongpu.machine.host import Host
from ongpu.machine.process import Processes

_NAME = re.compile(r"python3(\.\d+)?t?(\.exe)?\Z|python\.exe\Z")
_ASK = (
    "import json,sys,sysconfig;"
    "print(json.dumps({'version':'%d.%d.%d'%sys.version_info[:3],"
    "'free_threaded':bool(sysconfig.get_config_var('Py_GIL_DISABLED')),"
    "'environment':sys.prefix if sys.prefix!=sys.base_prefix else None,"
    "'implementation':sys.implementation.name}))"
)
# More than this is a build server; who asks for one by path still gets it.
_MOST = 24


def ask_python(processes: Processes, path: str, *, timeout_s: float = 10.0) -> PythonInstall:
    """What an interpreter says of itself.

    :raises DoorError: door ``process``; it could not be started, did not answer, or is no CPython 3.
    """
    done = processes.run((path, "-I", "-c", _ASK), timeout_s=timeout_s)
    if done.timed_out:
        raise DoorError(door="process", code="timeout", reason=f"{path} did not answer within {timeout_s:g} s")
    try:
        found = json.loads(done.stdout)
        version, implementation = found["version"], found["implementation"]
    except (ValueError, KeyError, TypeError) as error:
        raise DoorError(door="process", code="not-python", reason=f"{path} does not answer as Python 3 does") from error
    if implementation != "cpython":
        raise DoorError(door="process", code="not-cpython", reason=f"{path} is {implementation}, not CPython")
    return PythonInstall(
        path=path, version=version, free_threaded=found["free_threaded"], environment=found["environment"]
    )


def find_pythons(host: Host, processes: Processes) -> tuple[tuple[PythonInstall, ...], tuple[Unavailable, ...]]:
    """The base interpreters on the search path and in the usual folders, newest first; and who did not answer.

    Virtual environments are left out (they are not what a new one is made from), and so are the shims of pyenv
    and the Windows store's stub, which start something else.
    """
    # The real path: the link of a virtual environment leads to the interpreter it was made from.
    candidates = list(dict.fromkeys(host.real_path(path) for path in _candidates(host)))
    chosen = candidates[:_MOST]
    found: list[PythonInstall] = []
    unavailable: list[Unavailable] = []
    if len(candidates) > len(chosen):
        reason = f"{len(candidates)} interpreters, of which the first {_MOST} were asked"
        unavailable.append(Unavailable(what="pythons", reason=reason))
    with ThreadPoolExecutor(max_workers=4) as pool:
        for answer in pool.map(lambda path: _ask_or_reason(processes, path), chosen):
            match answer:
                case PythonInstall(environment=None):
                    found.append(answer)
                case Unavailable():
                    unavailable.append(answer)
                case _:
                    pass
    newest = sorted(found, key=lambda one: ([-int(part) for part in one.version.split(".")], one.path))
    return tuple(newest), tuple(unavailable)


def _ask_or_reason(processes: Processes, path: str) -> PythonInstall | Unavailable:
    try:
        return ask_python(processes, path)
    except DoorError as error:
        return Unavailable(what=f"python {path}", reason=error.reason, code=error.code)


def _candidates(host: Host) -> Iterator[str]:
    windows = host.platform().os == "windows"
    for folder in _folders(host, windows=windows):
        try:
            names = host.list_dir(folder, prefix="python")
        except DoorError:  # a search path lists folders that do not exist as a matter of course
            continue
        for name in names:
            if _NAME.match(name) and name.endswith(".exe") == windows:
                yield posixpath.join(folder, name)


def _folders(host: Host, *, windows: bool) -> Iterator[str]:
    environment = host.environment()
    for folder in environment.get("PATH", "").split(";" if windows else ":"):
        if folder and "shims" not in re.split(r"[\\/]", folder) and "WindowsApps" not in folder:
            yield folder
    if windows:
        local = environment.get("LOCALAPPDATA")
        parents = [(f"{local}/Programs/Python", "")] if local else []
        parents += [(f"{environment['APPDATA']}/uv/python", "")] if "APPDATA" in environment else []
    else:
        home = environment.get("HOME", "")
        data = environment.get("XDG_DATA_HOME") or f"{home}/.local/share"
        parents = [
            (f"{environment.get('PYENV_ROOT') or home + '/.pyenv'}/versions", "/bin"),
            (f"{data}/uv/python", "/bin"),
        ]
    for parent, below in parents:
        try:
            names = host.list_dir(parent)
        except DoorError:  # that tool is not in use here
            continue
        yield from (f"{parent}/{name}{below}" for name in names)
