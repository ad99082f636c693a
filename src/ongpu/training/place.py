"""What a launcher tells a process of its place among several: torchrun's variables, which others set as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ongpu.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the launcher told this process."""

    rank: int
    local_rank: int
    world_size: int
    address: str
    port: int
    launcher_has_store: bool
    attempt: str

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Place | None:
        """The place in ``variables``, ``None`` for a process that trains alone; :class:`UsageError` for half of one."""
        said = variables.get("WORLD_SIZE", "").strip()
        if said in {"", "1"}:
            return None
        needed = ("WORLD_SIZE", "RANK", "MASTER_PORT")
        wrong = [name for name in needed if not variables.get(name, "").strip().isdecimal()]
        wrong += [] if variables.get("MASTER_ADDR", "").strip() else ["MASTER_ADDR"]
        local = variables.get("LOCAL_RANK", "0").strip()
        if wrong or not local.isdecimal() or int(variables["RANK"]) >= int(said):
            what = ", ".join(wrong) or "RANK and LOCAL_RANK"
            raise UsageError(
                f"A launcher asks for {said} processes (WORLD_SIZE), and {what} in the environment cannot be used.",
                next_step="Start it with torchrun (docs/training-gpus.md), or unset WORLD_SIZE to train alone.",
            )
        return cls(
            rank=int(variables["RANK"]),
            local_rank=int(local),
            world_size=int(said),
            address=variables["MASTER_ADDR"].strip(),
            port=int(variables["MASTER_PORT"]),
            launcher_has_store=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=f"{variables.get('TORCHELASTIC_RUN_ID', '')}/{variables.get('TORCHELASTIC_RESTART_COUNT', '0')}",
        )
