"""The road that the phases are walked on: timed, recorded, and ended once at the first block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ongpu.enable.request import Phase, PhaseOutcome, Watch
from ongpu.errors import BlockedError, InterruptedRunError, OngpuError
from ongpu.machine.clock import Clock
from ongpu.proof.bundle import Bundle

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Generic[_T]):
    """What a phase hands on: its value, how it ended, one sentence."""

    value: _T
    summary: str
    outcome: PhaseOutcome = PhaseOutcome.DONE


class Road:
    """The phases walked so far, in order."""

    def __init__(self, *, bundle: Bundle, clock: Clock, watch: Watch) -> None:
        self.bundle = bundle
        self.watch = watch
        self._clock = clock
        self.phases: list[Phase] = []

    def walk(self, name: str, work: Callable[[], Step[_T]]) -> _T:
        """Do one phase. Whatever it raises is recorded as its end and raised again."""
        began_s = self._clock.mono_s()
        try:
            self.watch.phase_began(name)
            step = work()
        except BlockedError as error:
            self._ended(name, PhaseOutcome.BLOCKED, began_s, error.message)
            raise
        except InterruptedRunError as error:
            self._ended(name, PhaseOutcome.INTERRUPTED, began_s, error.message)
            raise
        except OngpuError as error:
            self._ended(name, PhaseOutcome.FAILED, began_s, error.message)
            raise
        except KeyboardInterrupt:
            self._ended(name, PhaseOutcome.INTERRUPTED, began_s, "by the user, or by a request to end")
            raise
        self._ended(name, step.outcome, began_s, step.summary)
        return step.value

    def _ended(self, name: str, outcome: PhaseOutcome, began_s: float, summary: str) -> None:
        phase = Phase(name=name, outcome=outcome, seconds=self._clock.mono_s() - began_s, summary=summary)
        self.phases.append(phase)
        self.bundle.value("phase", phase)
        self.watch.phase_ended(phase)

    @property
    def current(self) -> str:
        """The phase that ended last."""
        return self.phases[-1].name if self.phases else "start"
