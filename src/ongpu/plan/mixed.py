"""GPUs that no single build serves: which environment for which, and the mask that shows exactly these."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ongpu.domain.build import Decision, DecisionKind, SplitPart
from ongpu.domain.machine import Machine
from ongpu.plan.facts import Facts


def split(facts: Facts, planner: Callable[[Machine], Decision]) -> tuple[SplitPart, ...]:
    """Plan each compute capability alone.

    :param planner: plans a machine that has only some of the GPUs.
    :returns: the parts that a published build serves, empty where none can be or there is nothing to split.
        GPUs that stay out are those in no part.
    """
    if len(facts.capabilities) < 2:
        return ()
    parts: list[SplitPart] = []
    for capability in facts.capabilities:
        members = tuple(one.index for one in facts.devices if one.capability == capability)
        alone = dataclasses.replace(facts.machine, devices=tuple(facts.machine.devices[index] for index in members))
        decision = planner(alone)
        if decision.decision is not DecisionKind.PREBUILT:
            continue
        parts.append(
            SplitPart(
                devices=members,
                mask=",".join(facts.devices[one].uuid or f"<UUID of {facts.devices[one].name}>" for one in members),
                torch=decision.torch or "",
                label=f"{facts.devices[members[0]].name}: torch {decision.torch}+{decision.cuda_tag}",
                command=decision.command,
            )
        )
    return tuple(parts)
