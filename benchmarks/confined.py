"""A command in a process that may take so much memory and no more, and what it took; knows not what the command does.

Where systemd lets this user make a scope, that is a control group, and the kernel ends what exceeds it. Everywhere else
the resident memory of the process and all its descendants is sampled, and whoever asked has to compare.
"""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_runtime.memory.telemetry import kilobyte_fields

_SAMPLE_S = 0.2
_SCOPE = ["systemd-run", "--user", "--scope", "--quiet"]


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int  # negative for a signal
    output: str
    peak_bytes: int  # resident, of all its processes together
    seconds: float
    is_confined: bool  # whether the kernel held it to its limit


def run_confined(command: list[str], limit_bytes: int) -> Ended:
    """Run ``command`` to its end; stderr is this process's own."""
    started_s, is_confined = time.monotonic(), _has_scopes()
    scope = [*_SCOPE, "-p", f"MemoryMax={limit_bytes}", "-p", "MemorySwapMax=0"] if is_confined else []
    process = subprocess.Popen([*scope, *command], stdout=subprocess.PIPE, text=True)
    peaks_bytes, has_ended = [0], threading.Event()
    sampler = threading.Thread(target=_sample, args=(process.pid, peaks_bytes, has_ended))
    sampler.start()
    try:
        assert process.stdout is not None
        output = process.stdout.read()
        code = process.wait()
    finally:
        has_ended.set()
        sampler.join()
    return Ended(code, output, peaks_bytes[0], time.monotonic() - started_s, is_confined)


def _has_scopes() -> bool:
    try:
        return subprocess.run([*_SCOPE, "true"], capture_output=True, check=False, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _sample(pid: int, peaks_bytes: list[int], has_ended: threading.Event) -> None:
    while not has_ended.wait(_SAMPLE_S):
        try:
            whole = psutil.Process(pid)
            family = [whole, *whole.children(recursive=True)]
            together = sum(process.memory_info().rss for process in family)
            # The kernel's own mark, which misses no peak between two samples; ru_maxrss would count who forked it, too.
            alone = max(kilobyte_fields(Path(f"/proc/{process.pid}/status")).get("VmHWM", 0) for process in family)
        except psutil.Error:  # one of them has just ended
            continue
        peaks_bytes.append(max(peaks_bytes.pop(), together, alone))
