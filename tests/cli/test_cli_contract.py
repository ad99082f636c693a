"""What other people's scripts rely on: documents, schemas, exit statuses, help, and what is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from ongpu.report.contract import DOCUMENTS
from tests.cli.cli_harness import ongpu
from tools.write_contracts import CLI_PAGE, SCHEMAS, cli_page, schema_text

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", sorted(DOCUMENTS))
def test_shipped_schemas_are_those_of_the_values(command: str) -> None:
    shipped = (SCHEMAS / f"{command}.json").read_text("utf-8")
    assert shipped == schema_text(command), "run tools/write_contracts.py"
    jsonschema.Draft202012Validator.check_schema(json.loads(shipped))


def _valid(command: str, document: object) -> None:
    jsonschema.validate(document, json.loads((SCHEMAS / f"{command}.json").read_text("utf-8")))


DOCUMENTED = [
    ("probe", ["probe"], {0}),
    ("plan", ["plan", "--gpu", "RTX 5090", "--driver", "570.124"], {0}),
    ("plan", ["plan", "--gpu", "K80", "--torch", "torch>=2.14"], {3}),
    ("plan", ["plan", "--gpu", "RTX 50900"], {2}),
    ("plan", ["plan", "--gpu", "RTX 5090", "--driver", "13.0"], {2}),
    ("plan-check", ["plan", "--gpu", "RTX 5090", "--check", "pip install torch==2.6.0"], {1}),
    ("scan", ["scan", sys.executable, "--compute-capability", "9.0"], {0}),
    ("doctor", ["doctor", "--python", sys.executable], {0, 1, 3}),
    ("diagnose", ["diagnose", "no-such-file.log"], {2}),
    ("evidence", ["evidence", "check", "no-such-bundle"], {2}),
    ("enable", ["enable", "--project", "no-such-folder"], {2}),
    ("install", ["install", "--dry-run", "--gpu", "RTX 5090", "--project", "no-such-folder"], {2}),
]


@pytest.mark.process
@pytest.mark.parametrize(("command", "words", "statuses"), DOCUMENTED, ids=lambda value: " ".join(map(str, value))[:60])
def test_json_is_one_valid_document(command: str, words: list[str], statuses: set[int], tmp_path: Path) -> None:
    ran = ongpu([*words, "--json"], cwd=tmp_path)
    assert ran.status in statuses, ran.out + ran.err
    document = ran.document()
    if "error" in document:  # the error document of plan --check is that of plan
        command = str(document["schema"]).split("/")[1]
    _valid(command, document)
    if ran.status == 2:
        assert document["error"]["next_step"].endswith((".", "`", "?")) and "error" in document
        assert "Next: " in ran.err


@pytest.mark.process
def test_a_plan_for_another_machine_holds_no_fact_of_this_one(tmp_path: Path) -> None:
    ran = ongpu(["plan", "--gpu", "RTX 5090", "--json"], cwd=tmp_path, variables={"CUDA_VISIBLE_DEVICES": "-1"})
    assert ran.document()["decision"] == "prebuilt"
    assert ran.document()["assumptions"], "what was not given must be named"


@pytest.mark.process
def test_cu124_cannot_serve_an_rtx_5090_and_the_tool_says_so(tmp_path: Path) -> None:
    command = "pip install --pre torch --index-url https://download.pytorch.org/whl/nightly/cu124"
    ran = ongpu(["plan", "--gpu", "RTX 5090", "--check", command], cwd=tmp_path)
    assert ran.status == 1
    assert "wheel-no-arch" in ran.out and "cu124" in ran.out and "Type instead" in ran.out


@pytest.mark.process
def test_help_equals_its_page() -> None:
    assert CLI_PAGE.read_text("utf-8") == cli_page(), "run tools/write_contracts.py"


@pytest.mark.process
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["plan", "--gpu", "T4"], ["enable", "--help"]])
def test_nothing_of_torch_is_imported(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['ongpu', *{words!r}]\n"
        "try:\n    runpy.run_module('ongpu', run_name='__main__')\nexcept SystemExit as end:\n    status = end.code\n"
        "bad = {'torch', 'transformers', 'numpy', 'pynvml'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.process
def test_usage_errors_leave_with_2_and_no_traceback(tmp_path: Path) -> None:
    for words in (["no-such-command"], ["plan", "--no-such-option"], ["run"], ["run", "--", "no-such-program-here"]):
        ran = ongpu(words, cwd=tmp_path)
        assert ran.status == 2, (words, ran.err)
    assert list(tmp_path.iterdir()) == []
