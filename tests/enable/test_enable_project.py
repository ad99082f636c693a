"""What the user's project asks of torch is known before a build is chosen."""

from __future__ import annotations

from pathlib import Path

from ongpu.domain.verdict import Cause
from ongpu.enable import EnableRequest
from tests.enable.test_enable_walk import recorded, walked


def test_a_project_that_no_build_serves_is_stopped_by_the_plan_not_by_the_resolver(tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "pyproject.toml").write_text(
        '[project]\nname = "backend"\nversion = "0.1"\n'
        '[project.optional-dependencies]\ntraining = ["torch==2.0.1"]\nother = []\n',
        "utf-8",
    )
    request = EnableRequest(project=Path("backend"), extra="training")
    report = walked(request, recorded("h100.json", tmp_path))
    assert (report.exit_status, report.blocked_in, report.cause) == (3, "plan", Cause.PYTHON_ENV)
