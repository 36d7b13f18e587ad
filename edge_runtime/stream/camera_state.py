"""What one camera's frames have to do with each other: which need no report, which findings are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge_runtime.reports.report import InspectionReport
from edge_runtime.reports.tracking import FindingTracker
from edge_runtime.stream.change_gate import ChangeGate, GateRule
from edge_runtime.vision.frame_signature import signature_of
from edge_runtime.vision.resampling import check_frame

Frame = NDArray[np.uint8]  # (H, W, 3), BGR


class CameraState:
    """Remembers one camera's last inspected frame; ``ids`` numbers its defects, and may be shared by cameras.

    Without ``is_tracked`` no defect is followed from frame to frame, and findings have no number.
    """

    def __init__(self, ids: Iterator[int], is_tracked: bool = True) -> None:
        self._gate = ChangeGate()
        self._is_tracked = is_tracked
        self._tracker = FindingTracker(ids)

    def inspect(
        self, frame: Frame, now_s: float, rule: GateRule, inspect: Callable[[Frame], InspectionReport]
    ) -> InspectionReport | None:
        """What ``inspect`` says of the frame, its findings tracked; None where ``rule`` skips it.

        ``now_s`` counts seconds from anywhere. What ``inspect`` raises passes through, and the frame is forgotten.
        """
        check_frame(frame)
        signature = signature_of(frame)
        if not self._gate.admits(signature, now_s, rule):
            return None
        report = inspect(frame)
        self._gate.inspected(signature, now_s)
        if not self._is_tracked:
            return report
        return replace(report, findings=self._tracker.follow(report.findings, signature, now_s))
