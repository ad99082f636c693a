"""What a log says of the machine: names and versions, read line by line.

Every expression is anchored on a literal and made of bounded classes, so none can be driven into backtracking,
and no line longer than a few kilobytes is looked at.
"""

from __future__ import annotations

import re
from typing import Final

from ongpu.diagnose.model import Facts

# A line is read only if it has one of these (lower case, every digit as 0).
FACT_LITERALS: Final = tuple(
    (literal,)
    for literal in (
        "driver version",
        "cuda version",
        "umd version",
        "kmd version",
        "kernel module",
        "nvrm version",
        "dso version",
        "cuda runtime version",
        "cuda used to build",
        "geforce",
        "nvidia",
        "tesla",
        "quadro",
        "torch",
        "+cu",
        "+cpu",
        "found version",
        "capability",
        "sm_",
        "compute_cap",
        "python version",
        "libcuda reported version",
        "00de:",
        "0) - (0",
        "wsl0",
        "microsoft-standard",
        "c:\\",
        "win_amd64",
    )
)
_LONGEST: Final = 4096
_KEPT: Final = 16

_DRIVER: Final = re.compile(
    r"(?:driver version|kmd version|kernel modules?|nvrm version|dso version|libcuda reported version is|"
    r"kernel reported version is|api mismatch: the client has the version|has the version)"
    r"[^0-9\n]{0,60}(?:x86_64|aarch64)?\s{0,8}(\d{3}\.\d{2,3}(?:\.\d{2,3})?)\b",
    re.IGNORECASE,
)
_CUDA_CEILING: Final = re.compile(r"(?:\bcuda version: |cuda umd version: )\s{0,4}(\d{1,2}\.\d)\b", re.IGNORECASE)
_FOUND_VERSION: Final = re.compile(r"found version (\d{4,5})\b")
_RUNTIME: Final = re.compile(
    r"(?:cuda used to build pytorch|torch\.version\.cuda|pytorch built with cuda|torch cuda)"
    r"[^0-9a-zN\n]{0,12}(\d{1,2}\.\d)\b",
    re.IGNORECASE,
)
_TORCH: Final = re.compile(
    r"\b(?:torch(?:\.__version__|_version| version)?|pytorch(?:[ _]version)?)"
    r"(?:==|[ =:@]{1,4}|\s?\(|\) ?)\s{0,12}[v'\"]?"
    r"((?:0|1|2)\.\d{1,2}(?:\.\d{1,2})?(?:\.?(?:dev|a|rc)\d{0,10})?(?:\+[a-z0-9.]{2,24})?)",
    re.IGNORECASE,
)
_TORCH_LOCAL: Final = re.compile(
    r"(?<![\w.])((?:1|2)\.\d{1,2}\.\d{1,2}(?:\.?dev\d{0,10})?\+(?:cu\d{2,3}|cpu))(?![\w])", re.IGNORECASE
)
# A version right after one of these names is that package's, not torch's.
_COMPANION: Final = re.compile(
    r"(?:torch(?:audio|vision|text|data|metrics|ao)|xformers)[-=@:v( ]{0,4}\Z", re.IGNORECASE
)
_GPU: Final = re.compile(
    r"((?:NVIDIA )?(?:GeForce (?:RTX|GTX|GT|MX)|RTX PRO|RTX A?|Quadro(?: RTX| GV| GP)?|Tesla|TITAN|GTX)"
    r"\s?[A-Z]{0,4}\d{2,4}[A-Za-z]{0,2}"
    r"(?: (?:Ti|SUPER|Super|Laptop|Max-Q|Ada|Blackwell|D|GPU|Generation|Workstation|Server|Edition|with|Design)){0,6}"
    r"|NVIDIA (?:A|B|H|L|GB|GH)\d{1,3}[A-Za-z]{0,2}(?:[ -][A-Z0-9]{2,10}){0,4}|NVIDIA (?:GB10|Thor|Orin)"
    r"|Tesla [A-Z]\d{1,3}[a-z]{0,2}(?:-[A-Z0-9]{2,6}){0,3}|NVIDIA TITAN [A-Za-z]{1,3})"
)
_CAPABILITY: Final = re.compile(
    r"(?:cuda capability (?:sm_)?|compute[ _]capability (?:\(cc\) )?(?:is |of |: ?|= ?)?|of cuda capability |"
    r"capability[:=] ?|compute_cap[: ]{0,3})\(?(\d{1,2})[., ]{0,2}(\d)\b",
    re.IGNORECASE,
)
# A line that states what is asked for, not what the device is.
_DEMAND: Final = re.compile(
    r"requires? |required|minimum|at least|only support|or higher|or newer|or above", re.IGNORECASE
)
# A line that installs, or says what ought to be installed: its version of torch is a wish.
_WISH: Final = re.compile(
    r"pip3? install |installing package|package wrong version|--index-url|uv add |conda install |pip: install ",
    re.IGNORECASE,
)
_TARGETS_LINE: Final = re.compile(
    r"(?:supports cuda capabilities|arch[_ ]list|nvcc architecture flags: )", re.IGNORECASE
)
_TARGET: Final = re.compile(r"\b((?:sm|compute)_\d{2,3}[af]?)\b")
# In nvcc's flags: what the code was made from, not what was made.
_MADE_FROM: Final = re.compile(r"arch=compute_\d{2,3}[af]?")
_RANGE: Final = re.compile(r"\((\d{1,2}\.\d)\) - \((\d{1,2}\.\d)\)")
_SUPPORTS: Final = re.compile(r"- (\d{1,2})\.(\d) which supports hardware CC")
_PCI: Final = re.compile(r"\b10de:([0-9a-f]{4})\b", re.IGNORECASE)
_PYTHON: Final = re.compile(r"python version: (3\.\d{1,2})", re.IGNORECASE)
# Facts that are what the expression's group holds; a line is searched only if it has one of the words.
_AS_PRINTED: Final = (
    ("driver_versions", _DRIVER, ("version", "kernel module")),
    ("cuda_driver_versions", _CUDA_CEILING, ("version: ",)),
    ("cuda_runtime_versions", _RUNTIME, ("cuda",)),
    ("torch_versions", _TORCH, ("torch",)),
    ("gpus", _GPU, ("geforce", "rtx", "gtx", "quadro", "tesla", "titan", "nvidia ")),
    ("python_versions", _PYTHON, ("python version: ",)),
)


class FactReader:
    """Gathers facts line by line; each kind keeps a bounded number of distinct values."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}
        self._platform: str | None = None

    def _note(self, kind: str, value: str) -> None:
        values = self._found.setdefault(kind, [])
        if value in values:
            values.remove(value)
        elif len(values) == _KEPT:
            values.pop(0)
        values.append(value)

    def read(self, piece: bytes) -> None:
        """Read one cleaned line."""
        line = piece[:_LONGEST].decode("utf-8", "replace")
        lowered = line.lower()
        wish = _WISH.search(line)
        for kind, pattern, words in _AS_PRINTED:
            if any(word in lowered for word in words) and not (wish and kind == "torch_versions"):
                for match in pattern.finditer(line):
                    self._note(kind, match[1].strip())
        if "found version" in lowered:
            for match in _FOUND_VERSION.finditer(line):
                number = int(match[1])
                self._note("cuda_driver_versions", f"{number // 1000}.{number % 1000 // 10}")
        if "+c" in lowered and not wish:
            for match in _TORCH_LOCAL.finditer(line):
                if not _COMPANION.search(line[max(match.start() - 24, 0) : match.start()]):
                    self._note("torch_versions", match[1])
        if "cap" in lowered or "supports" in lowered or "arch" in lowered:
            self._read_capabilities(line)
        for match in _RANGE.finditer(line) if ") - (" in lowered else ():
            self._note("capability_ranges", f"{match[1]}-{match[2]}")
        for match in _PCI.finditer(line) if "10de:" in lowered else ():
            self._note("pci_ids", match[1].lower())
        self._read_platform(lowered)

    def _read_capabilities(self, line: str) -> None:
        for match in _CAPABILITY.finditer(line) if not _DEMAND.search(line) else ():
            self._note("compute_capabilities", f"{int(match[1])}.{match[2]}")
        if _TARGETS_LINE.search(line):
            for match in _TARGET.finditer(_MADE_FROM.sub("", line)):
                self._note("code_targets", match[1])
        for match in _SUPPORTS.finditer(line):
            self._note("code_targets", f"sm_{match[1]}{match[2]}")

    def _read_platform(self, line: str) -> None:
        if "wsl2" in line or "microsoft-standard" in line:
            self._platform = "wsl"
        elif self._platform is None and ("c:\\" in line or "win_amd64" in line):
            self._platform = "windows"

    def facts(self) -> Facts:
        """What was read."""
        return Facts(**{kind: tuple(values) for kind, values in self._found.items()}, platform=self._platform)
