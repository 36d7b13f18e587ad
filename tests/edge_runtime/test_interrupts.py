"""Ctrl-C waits where it would be mistaken, and never reaches processes that end with their parent anyway."""

from __future__ import annotations

import signal
import subprocess
import threading

import pytest

from edge_runtime.interrupts import deaf_children, holding_interrupts


def test_an_interrupt_waits_until_it_can_be_understood() -> None:
    done = []

    def load() -> None:
        with holding_interrupts():
            signal.raise_signal(signal.SIGINT)
            done.append("loaded")

    with pytest.raises(KeyboardInterrupt):
        load()
    assert done == ["loaded"]


def test_an_interrupt_comes_at_once_again_afterwards() -> None:
    with holding_interrupts():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


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
