"""Tell what the environment of *this* interpreter holds. Run by the target Python, alone.

Sealed: standard library only, nothing of ongpu, runs on Python 3.8 and newer. Nothing is imported from the
environment itself; torch is located with ``find_spec``, which does not run it.

Contract. Started as ``PYTHON -I -B read_environment.py``. Reads: the metadata of installed distributions, and
the text of ``torch/version.py``. Writes one line to standard output, ``ongpu-environment: `` followed by one
JSON object (other lines are what the environment's own start-up hooks print)::

    {"version": "3.12.3", "implementation": "cpython", "executable": "...", "prefix": "...",
     "base_prefix": "...", "free_threaded": false, "site_packages": ["..."],
     "packages": [{"name", "version", "location", "installer", "direct_url": {...} | null, "requires": ["..."]}],
     "torch": {"path": "...", "version_text": "..."} | null, "problems": ["..."]}

Exit status 0 where the line was written.
"""

from __future__ import annotations

import json
import os
import re
import site
import sys
import sysconfig
from importlib import metadata, util
from pathlib import Path
from typing import Any

# A version.py is a dozen lines; anything longer is not one.
_MOST_CHARACTERS = 65536


def _user_site(problems: list[str]) -> str | None:
    """The folder of ``pip install --user``, which ``-I`` hides but an ordinary start would use."""
    if sys.prefix != sys.base_prefix:
        try:
            config = (Path(sys.prefix) / "pyvenv.cfg").read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            problems.append(f"pyvenv.cfg cannot be read: {error}")
            return None
        if not re.search(r"(?im)^include-system-site-packages\s*=\s*true\s*$", config):
            return None
    if os.environ.get("PYTHONNOUSERSITE"):
        return None
    folder = site.getusersitepackages()
    return folder if Path(folder).is_dir() else None


def _packages(folders: list[str], problems: list[str]) -> list[dict[str, Any]]:
    seen = set()
    rows = []
    for folder in folders:
        here: dict[str, str] = {}
        for found in metadata.distributions(path=[folder]):
            try:
                # Each of ``found.metadata``, ``.version`` and ``.requires`` parses the whole file anew.
                told = found.metadata
                name, version = told["Name"], told["Version"]
                location = str(found.locate_file(""))
                url = found.read_text("direct_url.json")
                installer = (found.read_text("INSTALLER") or "").strip() or None
                requires = told.get_all("Requires-Dist") or []
                if not requires and found.read_text("requires.txt"):  # an egg's
                    requires = list(found.requires or ())
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
            row = {"name": key, "version": version, "location": location, "installer": installer}
            rows.append({**row, "direct_url": direct, "requires": requires})
    return sorted(rows, key=lambda row: str(row["name"]))


def _torch(problems: list[str]) -> dict[str, str | None] | None:
    try:
        spec = util.find_spec("torch")
    except (ImportError, ValueError, AttributeError) as error:
        problems.append(f"torch cannot be located: {error}")
        return None
    if spec is None:
        return None
    if spec.origin:
        folder = Path(spec.origin).parent
    else:
        # A folder without __init__.py (what is left of a broken uninstall) has no origin but a location.
        folder = Path(next(iter(spec.submodule_search_locations or ("",))))
        problems.append(f"the folder {folder} has no __init__.py: torch is not whole")
    path = folder / "version.py"
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_CHARACTERS)
    except (OSError, ValueError) as error:
        problems.append(f"{path} cannot be read: {error}")
        return {"path": str(folder), "version_text": None}
    return {"path": str(folder), "version_text": text}


def main() -> int:
    """Write the one line."""
    problems: list[str] = []
    user = _user_site(problems)
    if user is not None and user not in sys.path:
        sys.path.append(user)
    # This script's own folder is not on the path under -I; what remains is the environment's.
    folders = [one for one in sys.path if one and Path(one).is_dir()]
    answer = {
        "version": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "site_packages": [one for one in folders if Path(one).name.endswith("-packages")],
        "packages": _packages(folders, problems),
        "torch": _torch(problems),
        "problems": problems,
    }
    sys.stdout.write("\nongpu-environment: " + json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
