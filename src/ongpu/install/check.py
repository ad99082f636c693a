"""A request is refused before anything is started, where that can be known."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from ongpu.domain.build import AxisVerdict, DecisionKind
from ongpu.domain.verdict import Cause
from ongpu.errors import BlockedError, UsageError
from ongpu.install.request import InstallRequest


def check_decision(request: InstallRequest) -> None:
    """Only a prebuilt CUDA build is installed. Raises :class:`BlockedError` with the plan's cause otherwise."""
    decision = request.decision
    if decision.decision is not DecisionKind.PREBUILT or decision.torch is None or decision.cuda_tag is None:
        raise BlockedError(
            f"There is no prebuilt torch to install: the plan says {decision.decision.value}.",
            next_step=decision.next_step,
            cause=(decision.cause or Cause.UNDETERMINED).value,
            lines=tuple(f"{one.axis}: {one.reason}" for one in decision.axes if one.verdict is AxisVerdict.REFUSES),
        )
    if not decision.cuda_tag.startswith("cu"):
        raise BlockedError(
            f"The plan names a build without CUDA ({decision.torch}+{decision.cuda_tag}), which ongpu never installs.",
            next_step="Plan again for an NVIDIA GPU: ongpu plan.",
            cause=Cause.CPU_ONLY_TORCH.value,
        )


def check_values(request: InstallRequest) -> None:
    """The values a person typed. Raises :class:`UsageError` naming the first that makes no sense."""
    for option, url in (("--index-url", request.index_url), ("--torch-index-url", request.torch_index_url)):
        odd = url is not None and any(one.isspace() or not one.isprintable() for one in url)
        if url is not None and (odd or not url.startswith(("https://", "http://", "file://"))):
            raise UsageError(
                f"{option} {url!r} is not a URL of a package index.", next_step="Give one that starts with https://."
            )
    for link in request.find_links:
        if link.startswith("-") or not link.isprintable():
            raise UsageError(f"--find-links {link!r} is not a folder or a page.", next_step="Give a folder of wheels.")
        if "://" not in link and not Path(link).is_dir():
            raise UsageError(
                f"--find-links {link!r} is not a folder.", next_step="Give a folder of wheels that exists."
            )
    if request.offline and not request.find_links:
        raise UsageError(
            "Offline, there is nothing to install from.", next_step="Give a folder of wheels: --find-links DIR."
        )
    python = request.python
    if python is not None and (python.startswith("-") or not python.strip() or not python.isprintable()):
        raise UsageError(f"{python!r} is no Python.", next_step="Give a version such as 3.12, or a path.")
    if request.platform is not None and not request.dry_run:
        raise UsageError(
            "An environment for another machine cannot be made here.", next_step="Use --dry-run or --lock."
        )
    if request.platform is not None and (python is None or not re.fullmatch(r"3\.\d+(\.\d+)?", python)):
        raise UsageError("For another machine, its Python version must be known.", next_step="Give --python 3.12.")
    for text in request.requirements:
        try:
            Requirement(text)
        except InvalidRequirement as error:
            raise UsageError(
                f"{text!r} is not a requirement: {str(error).splitlines()[0]}.", next_step="Write it as name>=version."
            ) from error
    if request.extra and request.project is None:
        raise UsageError("--extra is given without --project.", next_step="Name the project's folder with --project.")
    if request.project is not None and not request.build and not request.editable:
        raise UsageError(
            "A project that is not editable must be built, which was ruled out.",
            next_step="Drop one of the two options.",
        )
