"""What a Python environment holds: its interpreter, its packages, and which torch."""

from __future__ import annotations

from dataclasses import dataclass

from ongpu.domain.arch import RuntimeVersion
from ongpu.domain.machine import PythonInstall


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One installed distribution, as its metadata names it.

    ``name`` is normalized (lower case, dashes). ``location`` is the folder its files were installed into;
    ``direct_url`` the URL of PEP 610 where it did not come from an index, without credentials; ``requires``
    the ``Requires-Dist`` lines as written; ``installer`` who put it there, as its ``INSTALLER`` file says
    (``uv``, ``pip``, ``conda``).
    """

    name: str
    version: str
    location: str
    direct_url: str | None = None
    editable: bool = False
    requires: tuple[str, ...] = ()
    installer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledTorch:
    """The torch an ``import torch`` of that environment would load, read from its files, never imported.

    ``cuda_tag`` is ``cu126`` from the version's local label, or made of the runtime where a build carries none
    (PyPI's own). ``cpu_only`` is true where ``torch/version.py`` says neither CUDA nor HIP nor XPU. ``path`` is
    the package folder. ``arch_flags`` is what the binary was compiled for; ``None`` until a scan has read it.
    """

    version: str
    cuda_tag: str | None
    runtime: RuntimeVersion | None
    cpu_only: bool
    path: str
    arch_flags: tuple[str, ...] | None = None
    hip: str | None = None
    xpu: str | None = None

    @property
    def public_version(self) -> str:
        """``2.14.1`` of ``2.14.1+cu126``."""
        return self.version.partition("+")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What ``PYTHONPATH`` puts in front of an environment when its Python is started as usual.

    ``torch`` is the one that an ``import torch`` then loads in place of the environment's own, if there is one;
    ``hides`` names the packages of the environment that are then not imported, with their versions.
    """

    folders: tuple[str, ...]
    packages: tuple[Package, ...]
    torch: InstalledTorch | None = None
    problems: tuple[str, ...] = ()
    hides: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A Python environment as it was read.

    ``prefix`` is its ``sys.prefix``; ``site_packages`` the folders it imports packages from, in order.
    ``packages`` is sorted by name; of one name on several folders only the one that wins is listed.
    ``problems`` names what is broken or could not be read. ``ran`` is false where that Python could not be
    started and the files were read in its stead. ``kind`` says who keeps it: ``venv``, ``conda``, ``pixi`` or
    ``system``; what conda or Pixi keeps is changed by them alone. ``added`` are folders that ``.pth`` files put on the
    path; ``ahead`` is what the caller's ``PYTHONPATH`` puts in front, which is in none of the others.
    """

    python: PythonInstall
    prefix: str
    site_packages: tuple[str, ...]
    packages: tuple[Package, ...]
    torch: InstalledTorch | None
    problems: tuple[str, ...] = ()
    virtual: bool = True
    ran: bool = True
    kind: str = "venv"
    added: tuple[str, ...] = ()
    ahead: Ahead | None = None

    def package(self, name: str) -> Package | None:
        """The installed package of that normalized name, if there is one."""
        return next((one for one in self.packages if one.name == name), None)
