"""Readings as they come, from the sampler and from the hook's files, into the recorder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ongpu.domain.witness import Recorder
from ongpu.guard.records import HookTail
from ongpu.guard.tree import Member, members_of
from ongpu.guard.watcher import Watcher
from ongpu.guard.witnesses import FirstLook

TICK_S = 0.05


class Feed:
    """What is seen of one guarded command, from its baseline to its ``guard.end``.

    :param patience_s: how long the sampler may be silent before it counts as failed.
    :param on_first_step: called with the ``seq`` of the first step that is wholly on CUDA.
    :param on_tree: called with the members of the command's tree whenever the sampler tells them.
    """

    def __init__(
        self,
        *,
        role: str,
        recorder: Recorder,
        watcher: Watcher,
        folder: Path,
        patience_s: float,
        on_first_step: Callable[[int], None],
        on_tree: Callable[[list[Member]], None],
    ) -> None:
        self.look = FirstLook()
        self.tail = HookTail(folder)
        self._patience_s = patience_s
        self._role = role
        self._recorder = recorder
        self._watcher = watcher
        self._on_first_step = on_first_step
        self._on_tree = on_tree
        self._heard_at = time.monotonic()
        self._begun: set[tuple[str, object]] = set()

    def baseline(self, *, timeout_s: float, stop: Callable[[], bool]) -> None:
        """Wait until the sampler has taken the baseline; without one the run goes on, and no witness confirms."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._watcher.ended and not stop():
            line = self._watcher.next_line(TICK_S)
            if line is not None:
                self._line(line)
                if line.get("kind") == "baseline":
                    return
        if not self._watcher.ended and not stop():
            self._watcher.error = "the sampler gave no baseline in time"

    def take(self, *, wait_s: float) -> None:
        """Everything that has come, waiting a little for the first line of the sampler."""
        if self._watcher.ended:
            time.sleep(wait_s)
        else:
            line = self._watcher.next_line(wait_s)
            while line is not None:
                self._line(line)
                line = self._watcher.next_line(0)
            if self._watcher.error is None and time.monotonic() - self._heard_at > self._patience_s:
                self._watcher.error = f"the sampler was silent for {self._patience_s:g} s"
        self.take_hooks()

    def _line(self, line: Mapping[str, object]) -> None:
        self._heard_at = time.monotonic()
        if line.get("kind") == "alive":  # no reading: it says that silence is no failure
            return
        data = {key: value for key, value in line.items() if key != "kind"}
        self._recorder.record(str(line.get("kind")), {**data, "role": self._role})
        self.look.sampled(line)
        if line.get("kind") == "tree":
            self._on_tree(members_of(line.get("processes")))

    def take_hooks(self) -> None:
        """The hook's records since the last time. Their own ``role`` or ``source`` would not be believed."""
        for record in self.tail.poll():
            fields = {**record.fields, "role": self._role, "source": record.source}
            seq = self._recorder.record("hook", fields)
            begins = (record.source, record.fields["record"])
            if begins[1] in {"torch", "step"} and begins not in self._begun:
                self._begun.add(begins)
                self._watcher.tell({"burst": True})  # a process speaks, or begins to train: look closely, and now
            if self.look.hook(record.fields):
                self._on_first_step(seq)

    def finish(self) -> None:
        """The last words of the hook and of the sampler."""
        self.take_hooks()
        self._watcher.finish()
        deadline = time.monotonic() + 3.0
        while not self._watcher.ended and time.monotonic() < deadline:
            line = self._watcher.next_line(TICK_S)
            if line is not None:
                self._line(line)
        if not self._watcher.ended and self._watcher.error is None:
            self._watcher.error = "the sampler did not end when told"
        self._watcher.close()

    def close(self, **more: object) -> None:
        """Record ``guard.end``: how many of everything there were."""
        counts = sorted(self.tail.counts.items())
        hooks = [{"source": source, "pid": self.tail.pids.get(source), "records": n} for source, n in counts]
        self._recorder.record(
            "guard.end",
            {
                "role": self._role,
                "hooks": hooks,
                "hook_files_refused": self.tail.refused_files,
                "sampler_lines": self._watcher.count,
                "sampler_error": self._watcher.error,
                **more,
            },
        )
