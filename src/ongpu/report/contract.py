"""Which value each command's document is made of, and the schemas shipped beside this module."""

from __future__ import annotations

from typing import Any, Final

from ongpu.doctor import DoctorReport
from ongpu.domain.machine import Machine
from ongpu.enable import EnableReport
from ongpu.evidence.check import CheckReport
from ongpu.evidence.keys import KeyFiles
from ongpu.install import InstallReport
from ongpu.plan import CommandReport
from ongpu.report.diagnosis import DiagnoseDocument
from ongpu.report.document import ChallengeDocument, PageDocument, RunDocument, error_schema, schema
from ongpu.report.plan_document import CatalogDocument, CatalogUpdateDocument, PlanDocument
from ongpu.report.scan_document import ScanDocument
from ongpu.smoke import SmokeReport

DOCUMENTS: Final[dict[str, type]] = {
    "catalog": CatalogDocument,
    "catalog-update": CatalogUpdateDocument,
    "challenge": ChallengeDocument,
    "diagnose": DiagnoseDocument,
    "doctor": DoctorReport,
    "enable": EnableReport,
    "evidence": CheckReport,
    "install": InstallReport,
    "keygen": KeyFiles,
    "plan": PlanDocument,
    "plan-check": CommandReport,
    "probe": Machine,
    "report": PageDocument,
    "run": RunDocument,
    "scan": ScanDocument,
    "verify": SmokeReport,
}


def contract(command: str) -> dict[str, Any]:
    """The JSON Schema of everything the command may print with ``--json``: its answer, or its error."""
    answer = schema(command, DOCUMENTS[command])
    definitions, head = answer.pop("$defs"), answer.pop("$schema")
    return {"$schema": head, "title": answer["title"], "anyOf": [answer, error_schema(command)], "$defs": definitions}
