"""A check as a JUnit report, for the CI systems that draw those: an obligation or a claim is a test.

Unknown is no pass there either: it is an error, as what could not be run is. What is not required may be skipped.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Final

from ongpu.domain.verdict import Outcome
from ongpu.evidence.check import CheckReport
from ongpu.evidence.obligations import OBLIGATIONS

# XML 1.0 has no place for most control characters, nor for lone surrogates and the two non-characters.
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: CheckReport) -> str:
    """The report as XML text."""
    suites = ET.Element("testsuites")
    bundle = ET.SubElement(suites, "testsuite", name="ongpu.bundle")
    broken: dict[int, list[str]] = {}
    for problem in report.problems:
        broken.setdefault(problem.obligation, []).append(problem.text)
    for number, text in OBLIGATIONS.items():
        case = _case(bundle, "ongpu.obligation", f"{number}: {text}")
        if number in broken:
            _told(case, "failure", "; ".join(broken[number]))
    accepted = _case(bundle, "ongpu.bundle", "accepted")
    if report.exit_status == 1:
        _told(accepted, "failure", "refused")
    elif report.exit_status != 0:
        _told(accepted, "error", "; ".join(report.not_proven) or "below the level that was asked for")
    claims = ET.SubElement(suites, "testsuite", name="ongpu.claims")
    # A refused bundle claims nothing, and a check that stopped early has not come to the claims.
    for claim in report.verdict.claims if report.verdict is not None and not report.problems else ():
        case = _case(claims, "ongpu.claim", f"{claim.id}: {claim.statement}")
        match claim.outcome:
            case Outcome.REFUTED:
                _told(case, "failure", claim.reason)
            case Outcome.UNKNOWN:
                _told(case, "error" if claim.required else "skipped", claim.reason)
            case Outcome.PROVEN:
                pass
    for suite in (bundle, claims):
        suite.set("tests", str(len(suite)))
        for kind, counted in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            suite.set(counted, str(sum(case.find(kind) is not None for case in suite)))
    ET.indent(suites, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _case(suite: ET.Element, kind: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=kind, name=_fit(name))


def _told(case: ET.Element, kind: str, text: str) -> None:
    ET.SubElement(case, kind, message=_fit(text))


def _fit(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
