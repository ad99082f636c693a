"""A check's own result for others to rely on: an in-toto Simple Verification Result over the manifest.

https://in-toto.io/attestation/svr/v0.1 (in-toto/attestation, spec/predicates/svr.md). It lists what passed, and nothing
else: whatever is not listed was not found, or not asked. Whoever reads it believes the checker who signed it.
"""

from __future__ import annotations

import datetime
import json
from typing import Final

from ongpu import __version__
from ongpu.domain.verdict import Outcome
from ongpu.errors import RefusedError
from ongpu.evidence.check import Answer, CheckReport
from ongpu.evidence.statement import MANIFEST_NAME, STATEMENT_TYPE

RESULT_TYPE: Final = "https://in-toto.io/attestation/svr/v0.1"
VERIFIER: Final = "urn:ongpu:check:v1"


def verification_result(report: CheckReport, *, wall_s: float) -> bytes:
    """The statement's bytes, to be kept as they are or signed.

    :param wall_s: when the check was made, seconds since the epoch.
    :raises RefusedError: the bundle was refused, simulated, or below the level asked for: nothing passed.
    """
    if report.answer is not Answer.ACCEPTED or report.manifest_sha256 is None:
        raise RefusedError(
            f"{report.path} was not accepted, so there is no result to rely on.",
            next_step=f"Read why: ongpu evidence check {report.path}",
        )
    properties = ["ONGPU_BUNDLE_INTACT"]
    if report.level is not None:
        properties.append(f"ONGPU_LEVEL_{report.level.value}")
    if report.outcome is Outcome.PROVEN and report.verdict is not None:
        properties.append("ONGPU_PROVEN")
        proven = [claim.id for claim in report.verdict.claims if claim.outcome is Outcome.PROVEN]
        properties += [f"ONGPU_CLAIM_{name.upper().replace('-', '_')}" for name in proven]
    checked = datetime.datetime.fromtimestamp(int(wall_s), tz=datetime.UTC)
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": MANIFEST_NAME, "digest": {"sha256": report.manifest_sha256}}],
        "predicateType": RESULT_TYPE,
        "predicate": {
            "verifier": {"id": VERIFIER, "version": {"ongpu": __version__}},
            "timeCreated": checked.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "properties": properties,
        },
    }
    return (json.dumps(statement, ensure_ascii=True, indent=1, sort_keys=True) + "\n").encode("ascii")
