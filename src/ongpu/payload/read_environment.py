"""Tell what the environment of *this* interpreter holds. Run by the target Python, alone.

Sealed: standard library only, nothing of ongpu, runs on Python 3.8 and newer. Nothing is imported from the
environment itself; torch is located as an import would locate it, which does not run it.

Contract. Started as ``PYTHON -I -B read_environment.py``. Reads: the metadata of installed distributions, the text of
``torch/version.py``, and of the caller's variables ``PYTHONPATH`` and ``PYTHONNOUSERSITE``. Writes one line to standard
output, ``ongpu-environment: `` followed by one JSON object (other lines are what the environment's own start-up hooks
print)::

    {"version": "3.12.3", "implementation": "cpython", "executable": "...", "prefix": "...",
     "base_prefix": "...", "free_threaded": false, "site_packages": ["..."],
     "packages": [{"name", "version", "location", "installer", "direct_url": {...} | null, "requires": ["..."]}],
     "torch": {"path": "...", "version_text": "..."} | null, "problems": ["..."],
     "added": ["..."],
     "ahead": {"folders": ["..."], "packages": [...], "torch": {"path", "version_text"} | null, "problems": ["..."]}}

``added`` are the folders that ``.pth`` files put on the path; ``ahead`` those that ``PYTHONPATH`` puts in front of all
of it when this Python is started without ``-I``, with what an import would find there first.

Exit status 0 where the line was written.
"""
# Importing pathlib and importlib.metadata takes longer than reading a hundred packages without them.
# ruff: noqa: PTH100, PTH112, PTH118, PTH119, PTH120, PTH123, PTH208

from __future__ import annotations

import json
import os
import re
import site
import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A version.py is a dozen lines; anything longer is not one.
_MOST_CHARACTERS = 65536
# What is read of METADATA at once: its header nearly always, and not the description below it.
_CHUNK_BYTES = 16384
_MOST_BYTES = 4 << 20


def _user_site(problems: list[str]) -> str | None:
    """The folder of ``pip install --user``, which ``-I`` hides but an ordinary start would use."""
    if sys.prefix != sys.base_prefix:
        try:
            with open(os.path.join(sys.prefix, "pyvenv.cfg"), encoding="utf-8") as file:
                config = file.read()
        except (OSError, ValueError) as error:
            problems.append(f"pyvenv.cfg cannot be read: {error}")
            return None
        if not re.search(r"(?im)^include-system-site-packages\s*=\s*true\s*$", config):
            return None
    if os.environ.get("PYTHONNOUSERSITE"):
        return None
    folder = site.getusersitepackages()
    return folder if os.path.isdir(folder) else None


def _bytes(path: str, *, header: bool = False) -> bytes | None:
    """What a file holds, or its beginning up to the first empty line; None where there is none of that name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = b""
        while len(data) < _MOST_BYTES:
            chunk = os.read(descriptor, _CHUNK_BYTES)
            data += chunk
            if len(chunk) < _CHUNK_BYTES or (header and (b"\n\n" in data or b"\n\r\n" in data)):
                break
        return data
    finally:
        os.close(descriptor)


def _header(text: str) -> dict[str, list[str]]:
    """The fields of a METADATA or PKG-INFO (as of a mail), up to the first empty line."""
    fields: dict[str, list[str]] = {}
    last: list[str] = []
    for line in text.split("\n"):
        if line[:1] in (" ", "\t"):  # the field goes on; a license's empty lines are such lines too
            if last:
                last[-1] += line.rstrip("\r")
            continue
        name, colon, value = line.partition(":")
        if not colon or " " in name:
            break
        last = fields.setdefault(name.lower(), [])
        last.append(value.strip())
    return fields


def _wheel(path: str) -> tuple[str | None, str | None, list[str], str | None, str | None]:
    """Name, version, requirements, installer and URL of a ``.dist-info`` folder."""
    data = _bytes(os.path.join(path, "METADATA"), header=True)
    if data is None:
        data = _bytes(os.path.join(path, "PKG-INFO"), header=True) or b""
    head = re.split(rb"\n\r?\n", data, maxsplit=1)[0]
    fields = _header(head.decode("utf-8"))
    name, version = (fields.get(one, [None])[0] for one in ("name", "version"))
    installer = _bytes(os.path.join(path, "INSTALLER"))
    url = _bytes(os.path.join(path, "direct_url.json"))
    return (
        name,
        version,
        fields.get("requires-dist", []),
        None if installer is None else installer.decode("utf-8"),
        None if url is None else url.decode("utf-8"),
    )


def _egg(path: str) -> tuple[str | None, str | None, list[str], str | None, str | None]:
    """The same of an ``.egg-info``, a folder or a file, the old way: few environments have one."""
    from importlib import metadata  # noqa: PLC0415 - see above
    from pathlib import Path  # noqa: PLC0415 - see above

    found = metadata.Distribution.at(Path(path))
    told = found.metadata
    requires = told.get_all("Requires-Dist") or []
    if not requires and found.read_text("requires.txt"):
        requires = list(found.requires or ())
    return told["Name"], told["Version"], requires, found.read_text("INSTALLER"), found.read_text("direct_url.json")


def _distributions(folder: str) -> list[str]:
    """The names of the metadata folders, and files, in a folder of packages."""
    inside_egg = folder.lower().endswith(".egg")
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return []
    endings = (".dist-info", ".egg-info")
    return [one for one in entries if one.lower().endswith(endings) or (inside_egg and one.lower() == "egg-info")]


def _packages(folders: list[str], problems: list[str]) -> list[dict[str, Any]]:
    seen = set()
    rows = []
    for folder in folders:
        here: dict[str, str] = {}
        for entry in _distributions(folder):
            path = os.path.join(folder, entry)
            try:
                read = _wheel if entry.lower().endswith(".dist-info") else _egg
                name, version, requires, installer, url = read(path)
            except Exception as error:  # noqa: BLE001 - a broken package is reported, the others are still read
                problems.append(f"a package in {folder} cannot be read: {error}")
                continue
            if not name or not version:
                problems.append(f"a package in {folder} has no name or no version")
                continue
            key = re.sub(r"[-_.]+", "-", name).lower()
            if here.setdefault(key, version) != version:
                problems.append(f"{key} is in {folder} twice, as {here[key]} and {version}")
            if key in seen:
                continue
            seen.add(key)
            try:
                direct = json.loads(url) if url else None
            except ValueError:
                direct = None
                problems.append(f"direct_url.json of {key} is not JSON")
            row = {"name": key, "version": version, "location": folder, "installer": (installer or "").strip() or None}
            rows.append({**row, "direct_url": direct, "requires": requires})
    return sorted(rows, key=lambda row: str(row["name"]))


def _find_torch() -> Any:
    """Where an import would find torch: what ``importlib.util.find_spec`` does."""
    if "torch" in sys.modules:
        return sys.modules["torch"].__spec__
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find("torch", None, None) if find is not None else None
        if spec is not None:
            return spec
    return None


def _torch(spec: Any, problems: list[str]) -> dict[str, str | None] | None:
    if spec is None:
        return None
    if spec.origin:
        folder = os.path.dirname(spec.origin)
    else:
        # A folder without __init__.py (what is left of a broken uninstall) has no origin but a location.
        folder = next(iter(spec.submodule_search_locations or ("",)))
        problems.append(f"the folder {folder} has no __init__.py: torch is not whole")
    path = os.path.join(folder, "version.py")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MOST_CHARACTERS)
    except (OSError, ValueError) as error:
        problems.append(f"{path} cannot be read: {error}")
        return {"path": folder, "version_text": None}
    return {"path": folder, "version_text": text}


def _ahead(folders: list[str]) -> list[str]:
    """The folders of ``PYTHONPATH`` that are on the path through it alone."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    known = {os.path.realpath(one) for one in folders}
    found = [os.path.abspath(one) for one in named if one and os.path.isdir(one)]
    return [one for one in dict.fromkeys(found) if os.path.realpath(one) not in known]


def _read_ahead(folders: list[str]) -> dict[str, Any]:
    problems: list[str] = []
    return {
        "folders": folders,
        "packages": _packages(folders, problems),
        "torch": _torch(PathFinder.find_spec("torch", folders), problems) if folders else None,
        "problems": problems,
    }


def _added(folders: list[str]) -> list[str]:
    """The folders that ``.pth`` files put on the path: neither the interpreter's own nor a folder of packages."""
    own = [os.path.realpath(one) for one in (os.path.dirname(os.__file__), sys.prefix, sys.base_prefix)]
    found = []
    for one in folders:
        real = os.path.realpath(one)
        library = real == own[0] or os.path.dirname(real) == own[0]
        if not library and real not in own and not os.path.basename(one).endswith("-packages"):
            found.append(one)
    return found


def main() -> int:
    """Write the one line."""
    problems: list[str] = []
    user = _user_site(problems)
    if user is not None and user not in sys.path:
        sys.path.append(user)
    # This script's own folder is not on the path under -I; what remains is the environment's.
    folders = [one for one in sys.path if one and os.path.isdir(one)]
    try:
        torch = _torch(_find_torch(), problems)
    except (ImportError, ValueError, AttributeError) as error:
        problems.append(f"torch cannot be located: {error}")
        torch = None
    # hasattr: the build without a lock began with 3.13, and asking sysconfig takes 3 ms.
    config = __import__("sysconfig").get_config_var("Py_GIL_DISABLED") if hasattr(sys, "_is_gil_enabled") else None
    answer = {
        "version": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "free_threaded": bool(config),
        "site_packages": [one for one in folders if os.path.basename(one).endswith("-packages")],
        "packages": _packages(folders, problems),
        "torch": torch,
        "problems": problems,
        "added": _added(folders),
        "ahead": _read_ahead(_ahead(folders)),
    }
    sys.stdout.write("\nongpu-environment: " + json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
