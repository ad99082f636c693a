"""Packages and files by their names: which files are worth opening."""

from __future__ import annotations

import re
from typing import Final

# Formats that hold text, Python or data: no device code has been met in them in 89 wheels.
_NEVER: Final = frozenset(
    suffix
    for line in (
        "py pyi pyc pyx pxd txt md rst json toml yaml yml cfg ini csv tsv html css js mjs map svg png jpg jpeg gif ico",
        "ttf woff woff2 h hh hpp hxx inl inc cuh cu c cc cpp cxx cmake pc proto sh bat ps1 typed license npz npy gz xz",
        "bz2 zip pkl parquet mo po f f90 jinja j2 in am ipynb bc mlir td def tcl xml sql ts tsx scss less sample pem",
        "whl egg pth rs go java r m4 lock pdf wav mp3 mp4 ogg flac eot afm mat arff pxi pyf mako tpl mplstyle orig",
    )
    for suffix in line.split()
)


# What most files of an environment end with, told at once.
_MOST: Final = (".py", ".pyc", ".pyi", ".h", ".hpp", ".js", ".json", ".txt", ".html", ".npz", ".svg", ".png")


def may_have_code(name: str) -> bool:
    """Whether a file may hold device code or be a binary at all, by its name alone (as RECORD writes it)."""
    # Plain string work: an environment has tens of thousands of files, and pathlib takes most of the time there.
    if name.endswith(_MOST):
        return False
    folder, _, base = name.rpartition("/")
    if folder.endswith((".dist-info", ".egg-info", "__pycache__")) or ".dist-info/" in folder:
        return False
    stem, dot, suffix = base.rpartition(".")
    return not (dot and stem and suffix.lower() in _NEVER)


# What Python imports, the loader loads or the driver is handed; nvcc, ptxas and other programs are not among them.
LIBRARY_SUFFIXES: Final = (".so", ".pyd", ".dll", ".cubin", ".fatbin", ".ptx")
_LIBRARY_ENDINGS: Final = (*LIBRARY_SUFFIXES, *(suffix.upper() for suffix in LIBRARY_SUFFIXES))
_NUMBERED: Final = re.compile(r"\.so\.[\d.]*\d\Z")


def is_library(name: str) -> bool:
    """Whether a file is one that a program loads, by its name alone."""
    return name.endswith(_LIBRARY_ENDINGS) or (".so." in name and _NUMBERED.search(name) is not None)


def normalized(name: str) -> str:
    """A package name as indexes compare it: ``Flash_Attn`` is ``flash-attn``."""
    return name.lower().replace("_", "-").replace(".", "-")
