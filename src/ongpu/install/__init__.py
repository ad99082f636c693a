"""Decision + project -> a fresh environment, with what was excluded or overridden and why."""

from ongpu.install.advice import dockerfile_lines, notebook_lines, uv_project_lines
from ongpu.install.engine import install
from ongpu.install.policy import PolicyRow, policy
from ongpu.install.project import Project, read_project
from ongpu.install.request import Activation, Change, Installed, InstallReport, InstallRequest
from ongpu.install.target import markers_for, platform_of

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
    "markers_for",
    "notebook_lines",
    "platform_of",
    "policy",
    "read_project",
    "uv_project_lines",
]
