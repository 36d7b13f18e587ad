"""Ctrl-C waits where it would be mistaken, and never reaches processes that end with their parent anyway."""

from __future__ import annotations

import signal
import subprocess
import threading

import pytest

from edge_runtime.signals import deaf_children, holding_interrupts, interrupted_by_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_waits_until_it_can_be_understood(number: signal.Signals) -> None:
    done = []

    def load() -> None:
        with interrupted_by_signals(), holding_interrupts():
            signal.raise_signal(number)
            done.append("loaded")

    with pytest.raises(KeyboardInterrupt):
        load()
    assert done == ["loaded"]


def test_an_interrupt_comes_at_once_again_afterwards() -> None:
    with holding_interrupts():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_others_do_at_sigterm_is_left_to_them() -> None:
    with interrupted_by_signals():
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with holding_interrupts():
            signal.raise_signal(signal.SIGTERM)
            assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_hangup_that_nohup_has_ignored_interrupts_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupted_by_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_that_no_interrupt_reaches_may_hold_them_too() -> None:
    done = []

    def load() -> None:
        with holding_interrupts():
            done.append("loaded")

    thread = threading.Thread(target=load)
    thread.start()
    thread.join(timeout=5)
    assert done == ["loaded"]


def test_only_a_child_that_was_started_deaf_sleeps_on() -> None:
    with deaf_children():
        deaf = subprocess.Popen(["sleep", "0.2"])
    hearing = subprocess.Popen(["sleep", "60"])
    for child in (deaf, hearing):
        child.send_signal(signal.SIGINT)
    assert deaf.wait(timeout=5) == 0
    assert hearing.wait(timeout=5) == -signal.SIGINT
