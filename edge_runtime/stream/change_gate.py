"""Which frames are worth an inspection: those that show something new, and one now and then; inspects nothing.

A frame is skipped where it shows what the last inspected one showed. That is so where the picture moved by at most
``MAX_SHIFT`` and changed by less than the threshold (``FrameSignature.difference``). Measured over 40
rendered scenes of 640x480, what a change amounts to, as 5th, 50th and 95th percentile:

    noise of 6 grey levels       0.05  0.11  0.31      2 pixels of motion      0.09  0.18  0.42
    a tenth brighter             0.02  0.04  0.09      a new crack, 1 pixel    0.11  0.23  0.58
    JPEG of quality 50           0.05  0.09  0.29      a new crack, 2 pixels   0.22  0.63  1.27
    another scene                1.47  2.09  2.69      a new crack, 6 pixels   0.43  1.06  2.49

A hairline can hide in that noise, which is why a frame is inspected every ``refresh_s`` whatever it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.vision.frame_signature import FrameSignature

DEFAULT_THRESHOLD = 0.35  # over noise, exposure and compression; under 9 of 10 new cracks of 2 pixels' width
MAX_SHIFT = 0.04  # of the frame: beyond, a strip that was not seen before may hold a defect


@dataclass(frozen=True)
class GateRule:
    """When a frame counts as seen; a ``threshold`` of 0 lets every frame pass."""

    threshold: float = 0.0
    refresh_s: float = 5.0  # the longest that a camera may go without an inspection


class ChangeGate:
    """Remembers the last inspected signature of one camera."""

    def __init__(self) -> None:
        self._seen: FrameSignature | None = None
        self._seen_s = 0.0

    def admits(self, signature: FrameSignature, now_s: float, rule: GateRule) -> bool:
        """Whether the frame with ``signature`` is to be inspected at ``now_s`` (monotonic seconds)."""
        if self._seen is None or rule.threshold <= 0 or now_s - self._seen_s >= rule.refresh_s:
            return True
        motion = signature.motion_since(self._seen)
        if motion is None or motion.length > MAX_SHIFT:
            return True
        return signature.difference(self._seen, motion) >= rule.threshold

    def inspected(self, signature: FrameSignature, now_s: float) -> None:
        """Tell that the frame with ``signature`` got its report; one that failed is not remembered."""
        self._seen, self._seen_s = signature, now_s
