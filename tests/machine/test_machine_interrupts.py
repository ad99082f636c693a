"""Interrupts: one exception for three signals, held back where work must be whole."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from ongpu.machine.interrupts import Interrupts

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def strike(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda one: one.name)
def test_each_is_an_exception_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        strike(number)
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_held_back_until_the_last_hold_ends() -> None:
    done = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.held():
            with interrupts.held():
                strike()
                done.append("inner")
            done.append("outer")
            assert interrupts.waiting
        assert done == ["inner", "outer"] and not interrupts.waiting


def test_an_error_within_a_hold_is_not_replaced() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(ValueError, match="mine"), interrupts.held():
            strike()
            raise ValueError("mine")
        assert interrupts.waiting


def test_released_within_a_hold_they_act() -> None:
    with Interrupts() as interrupts, interrupts.held():
        with pytest.raises(KeyboardInterrupt), interrupts.released():
            strike()
        strike()  # held again
        with pytest.raises(KeyboardInterrupt), interrupts.released():
            pytest.fail("the one that waited was not raised first")


def test_who_insists_is_heard_even_then() -> None:
    with Interrupts() as interrupts, interrupts.held():
        strike()
        strike()
        with pytest.raises(KeyboardInterrupt):
            strike()


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interrupts():
            strike()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_holds_nothing() -> None:
    with Interrupts() as interrupts:
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with interrupts.held():
                held.set()
                release.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(10)
        with pytest.raises(KeyboardInterrupt):
            strike()
        release.set()
        thread.join()
