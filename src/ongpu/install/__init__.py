"""Decision + project -> a fresh environment, with what was excluded or overridden and why."""

from ongpu.install.advice import dockerfile_lines, notebook_lines, uv_project_lines
from ongpu.install.engine import install
from ongpu.install.policy import PolicyRow, policy
from ongpu.install.project import Project, read_project
from ongpu.install.request import Activation, Change, Installed, InstallReport, InstallRequest

__all__ = [
    "Activation",
    "Change",
    "InstallReport",
    "InstallRequest",
    "Installed",
    "PolicyRow",
    "Project",
    "dockerfile_lines",
    "install",
    "notebook_lines",
    "policy",
    "read_project",
    "uv_project_lines",
]
