"""A first look at the witnesses while the command runs: enough to stop early, never enough for a verdict."""

from __future__ import annotations

from collections.abc import Mapping


class FirstLook:
    """Whether anything has spoken for GPU work yet, and whether anything spoke against it."""

    def __init__(self) -> None:
        self.on_cuda = False
        self.on_cpu: str | None = None
        self.listed = False
        self._tree: frozenset[int] = frozenset()

    @property
    def quiet(self) -> bool:
        """No witness of GPU work so far, or one against it."""
        return self.on_cpu is not None or not (self.on_cuda or self.listed)

    @property
    def reason(self) -> str:
        """Why it is quiet, one sentence."""
        if self.on_cpu is not None:
            return self.on_cpu
        return "no optimizer step on CUDA was reported and the driver lists no process of this command on a GPU"

    def hook(self, record: Mapping[str, object]) -> bool:
        """Take a hook record; True when it is the first step that is wholly on CUDA."""
        if record.get("record") != "step" or record.get("final") is True:
            return False
        devices: list[str] = []
        for part in ("parameters", "gradients", "state"):
            held = record.get(part)
            if isinstance(held, Mapping):
                devices.extend(str(device) for device in held)
        elsewhere = sorted({device for device in devices if not device.startswith("cuda")})
        if elsewhere:
            self.on_cpu = (
                f"process {record.get('pid')} made optimizer step {record.get('optimizer_step')} "
                f"with tensors on {', '.join(elsewhere)}"
            )
            return False
        first = bool(devices) and not self.on_cuda
        self.on_cuda = self.on_cuda or first
        return first

    def sampled(self, line: Mapping[str, object]) -> None:
        """Take a line of the sampler."""
        if line.get("kind") == "tree":
            self._tree = frozenset(_pids(line.get("processes")))
        elif line.get("kind") == "nvml.sample" and isinstance(devices := line.get("devices"), list):
            for device in devices:
                if isinstance(device, Mapping) and self._tree & set(_pids(device.get("processes"))):
                    self.listed = True


def _pids(processes: object) -> list[int]:
    if not isinstance(processes, list):
        return []
    return [one["pid"] for one in processes if isinstance(one, Mapping) and isinstance(one.get("pid"), int)]
