"""The answers, from rules written down by hand: what the planner is compared with.

Nothing here reads the catalog or calls the planner. The tables are typed from the research of 2026-11-22 (variants
by release, PyPI defaults, Python floors, driver branches), in another shape than the catalog's, and the search is
written the other way round: from what a release has to what a machine gets.
"""

from __future__ import annotations

from dataclasses import dataclass

# Releases, newest first, with the range of ordinary Python minors and of free-threaded ones (0, 0: none).
RELEASES: tuple[tuple[str, tuple[int, int], tuple[int, int]], ...] = (
    ("2.15.0", (11, 15), (14, 15)),
    ("2.14.1", (10, 14), (14, 14)),
    ("2.14.0", (10, 14), (14, 14)),
    ("2.13.0", (10, 14), (14, 14)),
    ("2.12.1", (10, 14), (14, 14)),
    ("2.12.0", (10, 14), (13, 14)),
    ("2.11.0", (10, 14), (13, 14)),
    ("2.10.0", (10, 14), (13, 14)),
    ("2.9.1", (10, 14), (13, 14)),
    ("2.9.0", (10, 14), (13, 14)),
    ("2.8.0", (9, 13), (13, 13)),
    ("2.7.1", (9, 13), (13, 13)),
    ("2.7.0", (9, 13), (13, 13)),
    ("2.6.0", (9, 13), (0, 0)),
    ("2.5.1", (9, 13), (0, 0)),
    ("2.4.1", (8, 12), (0, 0)),
    ("2.3.1", (8, 12), (0, 0)),
    ("2.2.2", (8, 12), (0, 0)),
    ("2.1.2", (8, 11), (0, 0)),
    ("2.0.1", (8, 11), (0, 0)),
)

_OLD = "5.0 6.0 7.0 7.5 8.0 8.6 9.0"
_OLD_WIN = "5.0 6.0 6.1 7.0 7.5 8.0 8.6 9.0"
_KEPLER = "3.7 " + _OLD
_KEPLER_WIN = "3.7 " + _OLD_WIN
_NEW = "7.5 8.0 8.6 9.0 10.0 12.0"
_VOLTA = "7.0 " + _NEW
_ARM13 = "8.0 9.0 10.0 11.0 12.0"
_ARM12 = "8.0 9.0 10.0 12.0"

# Variants in the order in which they are preferred: the PyPI default first, then the higher CUDA. '+' is PTX of 12.0,
# '?' a build whose list nobody knows.
_LINUX = {
    "2.15.0": {"cu132": _NEW, "cu130": _NEW},
    "2.14.1": {"cu130": _NEW, "cu132": _NEW, "cu126": _OLD},
    "2.14.0": {"cu130": _NEW, "cu132": _NEW, "cu126": _OLD},
    "2.13.0": {"cu130": _NEW, "cu132": _NEW, "cu129": _NEW, "cu126": _OLD},
    "2.12.1": {"cu130": _NEW, "cu132": _NEW, "cu129": _NEW, "cu126": _OLD},
    "2.12.0": {"cu130": _NEW, "cu132": _NEW, "cu126": _OLD},
    "2.11.0": {"cu130": _NEW, "cu129": _NEW + " +", "cu128": _NEW, "cu126": _OLD},
    "2.10.0": {"cu128": _VOLTA, "cu130": _NEW + " +", "cu129": _VOLTA + " +", "cu126": _OLD},
    "2.9.1": {"cu128": _VOLTA, "cu130": _NEW + " +", "cu129": _VOLTA + " +", "cu126": _OLD},
    "2.9.0": {"cu128": _VOLTA, "cu130": _NEW + " +", "cu129": _VOLTA + " +", "cu126": _OLD},
    "2.8.0": {"cu128": _VOLTA, "cu129": _VOLTA + " +", "cu126": _OLD},
    "2.7.1": {"cu126": _OLD, "cu128": _NEW + " +", "cu118": _KEPLER},
    "2.7.0": {"cu126": _OLD, "cu128": _NEW + " +", "cu118": _KEPLER},
    "2.6.0": {"cu124": _OLD, "cu126": _OLD, "cu118": _KEPLER},
    "2.5.1": {"cu124": _OLD, "cu121": _OLD, "cu118": _KEPLER},
    "2.4.1": {"cu121": _OLD, "cu124": _OLD, "cu118": _KEPLER},
    "2.3.1": {"cu121": _OLD, "cu118": _KEPLER},
    "2.2.2": {"cu121": _OLD, "cu118": _KEPLER},
    "2.1.2": {"cu121": _OLD, "cu118": _KEPLER},
    "2.0.1": {"cu117": "3.7 5.0 6.0 7.0 7.5 8.0 8.6", "cu118": _KEPLER},
}
_WINDOWS = {
    "2.15.0": {"cu132": _NEW, "cu130": _NEW},
    "2.14.1": {"cu132": _NEW, "cu130": _NEW, "cu126": _OLD_WIN},
    "2.14.0": {"cu132": _NEW, "cu130": _NEW, "cu126": _OLD_WIN},
    "2.13.0": {"cu132": _NEW, "cu130": _NEW, "cu126": _OLD_WIN},
    "2.12.1": {"cu132": _NEW, "cu130": _NEW, "cu126": _OLD_WIN},
    "2.12.0": {"cu132": _NEW, "cu130": _NEW, "cu126": _OLD_WIN},
    "2.11.0": {"cu130": _NEW, "cu128": _NEW, "cu126": _OLD_WIN},
    "2.10.0": {"cu130": _NEW, "cu128": _VOLTA, "cu126": _OLD_WIN},
    "2.9.1": {"cu130": _NEW, "cu128": _VOLTA, "cu126": "?"},
    "2.9.0": {"cu130": _NEW, "cu129": "?", "cu128": _VOLTA, "cu126": "?"},
    "2.8.0": {"cu129": "?", "cu128": "6.1 " + _VOLTA, "cu126": "6.1 7.0 7.5 8.0 8.6 9.0"},
    "2.7.1": {"cu128": "5.0 6.0 6.1 " + _VOLTA, "cu126": _OLD_WIN, "cu118": _KEPLER_WIN},
    "2.7.0": {"cu128": "5.0 6.0 6.1 " + _VOLTA, "cu126": _OLD_WIN, "cu118": _KEPLER_WIN},
    "2.6.0": {"cu126": _OLD_WIN, "cu124": _OLD_WIN, "cu118": _KEPLER_WIN},
    "2.5.1": {"cu124": _OLD_WIN, "cu121": _OLD_WIN, "cu118": _KEPLER_WIN},
    "2.4.1": {"cu124": _OLD_WIN, "cu121": _OLD_WIN, "cu118": _KEPLER_WIN},
    "2.3.1": {"cu121": _OLD_WIN, "cu118": _KEPLER_WIN},
    "2.2.2": {"cu121": _OLD_WIN, "cu118": _KEPLER_WIN},
    "2.1.2": {"cu121": _OLD_WIN, "cu118": _KEPLER_WIN},
    "2.0.1": {"cu118": _KEPLER_WIN, "cu117": "3.7 5.0 6.0 6.1 7.0 7.5 8.0 8.6"},
}
_ARM = {
    "2.15.0": {"cu132": _ARM13, "cu130": _ARM13},
    "2.14.1": {"cu130": _ARM13, "cu132": _ARM13, "cu126": "8.0 9.0"},
    "2.14.0": {"cu130": _ARM13, "cu132": _ARM13, "cu126": "8.0 9.0"},
    "2.13.0": {"cu130": _ARM13, "cu132": _ARM13, "cu126": "8.0 9.0"},
    "2.12.1": {"cu130": _ARM13, "cu132": _ARM13, "cu126": "8.0 9.0"},
    "2.12.0": {"cu130": _ARM13, "cu132": _ARM13, "cu126": "8.0 9.0"},
    "2.11.0": {"cu130": _ARM13, "cu128": _ARM12, "cu126": "8.0 9.0"},
    "2.10.0": {"cu130": _ARM13, "cu128": _ARM12, "cu126": "8.0 9.0"},
    "2.9.1": {"cu130": _ARM13, "cu128": _ARM12, "cu126": "8.0 9.0"},
    "2.9.0": {"cu130": _ARM13, "cu128": _ARM12, "cu126": "8.0 9.0"},
    "2.8.0": {"cu129": _ARM12},
    "2.7.1": {"cu128": "9.0 10.0 12.0"},
    "2.7.0": {"cu128": "9.0 10.0 12.0"},
}
VARIANTS = {("linux", "x86_64"): _LINUX, ("windows", "x86_64"): _WINDOWS, ("linux", "aarch64"): _ARM}

# Driver branches: the first and last that serve a compute capability.
_FIRST = {"8.0": 450, "8.6": 455, "8.9": 520, "9.0": 520, "10.0": 570, "12.0": 570}
_FIRST |= {"10.3": 580, "11.0": 580, "12.1": 580}
_LAST = {"3.7": 470, "5.0": 580, "5.2": 580, "6.0": 580, "6.1": 580, "7.0": 580}
_BRANCHES = [450, 455, 460, 465, 470, 495, 510, 515, 520, 525, 530, 535, 545, 550, 555, 560, 565, 570, 575, 580]
_BRANCHES += [590, 595, 610, 615]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A machine and a wish, in plain words; ``spec`` is a list of releases allowed (empty: any)."""

    gpus: tuple[tuple[str, str], ...]
    driver: str
    os: str = "linux"
    arch: str = "x86_64"
    python: str = "3.12"
    glibc: str = "2.35"
    spec: str | None = None

    @property
    def id(self) -> str:
        """A readable name of the case."""
        names = "+".join(name for name, _ in self.gpus)
        return f"{names} driver {self.driver} {self.os}-{self.arch} py{self.python} {self.spec or ''}".strip()


def expected(case: Scenario) -> str:
    """``2.14.1+cu126``, or the cause of a block."""
    capabilities = [capability for _, capability in case.gpus]
    if (trouble := _driver_trouble(case, capabilities)) is not None:
        return trouble
    found = _newest(case, capabilities)
    if found is not None:
        return found
    for python in ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"):
        if _newest(case, capabilities, python=python) is not None:
            return "python-env"
    if _newest(case, capabilities, glibc="2.99") is not None:
        return "python-env"
    if _any_unknown(case):
        return "undetermined"
    if _newest(case, capabilities, any_driver=True) is not None:
        return "driver-too-old"
    return "wheel-no-arch"


def _driver_trouble(case: Scenario, capabilities: list[str]) -> str | None:
    if case.os == "linux":
        blackwell = any(float(one) >= 10 and one != "11.0" for one in capabilities)
        before_turing = any(float(one) < 7.5 for one in capabilities)
        if blackwell and before_turing:
            return "driver-broken"
    first = max(_FIRST.get(one, 0) for one in capabilities)
    last = min(_LAST.get(one, 9999) for one in capabilities)
    if first > last:
        return "driver-too-new"
    branch = max((one for one in _BRANCHES if one <= int(case.driver.split(".")[0])), default=0)
    if branch > last:
        return "driver-too-new"
    return "driver-too-old" if branch < max(first, 450) else None


def _newest(
    case: Scenario,
    capabilities: list[str],
    *,
    python: str | None = None,
    glibc: str | None = None,
    any_driver: bool = False,
) -> str | None:
    table = VARIANTS[case.os, case.arch]
    ways = ["native"] if case.os == "windows" else ["native", "ptx"]
    for way in ways:
        for release, ordinary, threaded in RELEASES:
            if not allowed(case.spec, release) or not _python_fits(python or case.python, ordinary, threaded):
                continue
            if case.os == "linux" and not _glibc_fits(glibc or case.glibc, release, case.arch):
                continue
            for tag, codes in table.get(release, {}).items():
                if not any_driver and not _driver_runs(case, tag):
                    continue
                if way == "native" and all(_native(codes, one) for one in capabilities):
                    return f"{release}+{tag}"
    return None


def _any_unknown(case: Scenario) -> bool:
    for release, ordinary, threaded in RELEASES:
        if allowed(case.spec, release) and _python_fits(case.python, ordinary, threaded):
            for tag, codes in VARIANTS[case.os, case.arch].get(release, {}).items():
                if codes == "?" and _driver_runs(case, tag):
                    return True
    return False


def allowed(spec: str | None, release: str) -> bool:
    """A tiny reader of the requirements that the scenarios use: ``==``, ``<`` and ``>=``, joined by commas."""
    number = tuple(int(part) for part in release.split("."))
    for clause in (spec or "").removeprefix("torch").split(","):
        if clause.startswith("=="):
            if number != _number(clause[2:]):
                return False
        elif clause.startswith(">="):
            if number < _number(clause[2:]):
                return False
        elif clause.startswith("<") and not number < _number(clause[1:]):
            return False
    return True


def _number(text: str) -> tuple[int, ...]:
    parts = [int(part) for part in text.split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


def _python_fits(python: str, ordinary: tuple[int, int], threaded: tuple[int, int]) -> bool:
    minor = int(python.removesuffix("t").split(".")[1])
    low, high = threaded if python.endswith("t") else ordinary
    return low <= minor <= high


def _glibc_fits(glibc: str, release: str, arch: str) -> bool:
    minor = int(glibc.split(".")[1])
    needs_28 = _number(release) >= (2, 7, 0) or (arch == "aarch64" and _number(release) >= (2, 6, 0))
    return minor >= (28 if needs_28 else 17)


def _driver_runs(case: Scenario, tag: str) -> bool:
    driver = tuple(int(part) for part in case.driver.split("."))
    windows = case.os == "windows"
    if tag.startswith("cu13"):
        return driver >= (580,)
    if tag.startswith("cu12"):
        return driver >= ((528, 33) if windows else (525, 60, 13))
    return driver >= ((452, 39) if windows else (450, 80, 2))


def _native(codes: str, capability: str) -> bool:
    if codes == "?":
        return False
    major, minor = capability.split(".")
    return any(
        one.split(".")[0] == major and int(one.split(".")[1]) <= int(minor) for one in codes.replace("+", "").split()
    )
