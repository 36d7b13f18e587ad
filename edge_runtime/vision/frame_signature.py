"""A frame shrunk to what a camera sees at a glance, to tell whether it moved or saw something new; keeps no frame.

A signature is grey, 96x72, of mean 0 and deviation 1, so that neither exposure nor the size of the frame matters.
Making one takes 0.4 ms of a 1920x1080 frame, comparing two 0.25 ms (one core).
docs/scenes.md has how well they tell scenes apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 96, 72

_FLAT_DEVIATION = 6.0  # grey levels; a frame with less is flat, and noise of 5 must not exceed the gate's threshold
_MAX_SHIFT = 0.25  # of the frame: beyond, too little is in both signatures for the peak to mean anything
_SAME_SCENE = 0.75  # correlation of two aligned signatures, see docs/scenes.md: 0.5 % of unrelated pairs reach it
_ALIKE = 0.5  # a difference under which two signatures without a peak are of the same blank wall, or of the same fog
_GRAIN = (2, 2)  # cells averaged before comparing, against noise and what is left of the shift


@dataclass(frozen=True)
class Motion:
    """How the picture moved from one signature to the next, in fractions of the frame's width and height."""

    dx: float = 0.0
    dy: float = 0.0

    @property
    def length(self) -> float:
        """The larger of the two moves."""
        return max(abs(self.dx), abs(self.dy))


@dataclass(frozen=True, eq=False)
class FrameSignature:
    """A frame at a glance, immutable; make one with :func:`signature_of`."""

    cells: NDArray[np.float32]  # (HEIGHT, WIDTH), read-only

    def motion_since(self, earlier: FrameSignature) -> Motion | None:
        """How the picture moved since ``earlier``; None where the two show different things.

        By phase correlation (Kuglin and Hines, 1975), which sees translation: a turn of 2 degrees or a zoom of 5 % is
        found as no motion.
        """
        # Copies, because OpenCV 4.14 and 5.0 multiply the window into what they are given.
        (dx, dy), _ = cv2.phaseCorrelate(earlier.cells.copy(), self.cells.copy(), _window())
        motion = Motion(dx / WIDTH, dy / HEIGHT)
        if motion.length <= _MAX_SHIFT and _correlation(*self._aligned(earlier, motion)) >= _SAME_SCENE:
            return motion
        return Motion() if self.difference(earlier, Motion()) < _ALIKE else None

    def difference(self, earlier: FrameSignature, motion: Motion) -> float:
        """How much changed where both signatures see the same place: 0 is nothing, 2 another scene.

        The 99th percentile over the cells, in standard deviations of the picture: a crack changes few cells.
        """
        before, now = self._aligned(earlier, motion)
        return float(np.percentile(np.abs(before - now), 99))

    def _aligned(self, earlier: FrameSignature, motion: Motion) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The cells of ``earlier`` where ``motion`` carried them, and those here, as far as both saw the place."""
        dx, dy = motion.dx * WIDTH, motion.dy * HEIGHT
        move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
        moved = cv2.warpAffine(earlier.cells, move, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        both = _seen_by_both(dy, HEIGHT), _seen_by_both(dx, WIDTH)
        return cv2.blur(moved[both], _GRAIN).astype(np.float32), cv2.blur(self.cells[both], _GRAIN).astype(np.float32)


def signature_of(frame: NDArray[np.uint8]) -> FrameSignature:
    """The signature of ``frame``, uint8 (H, W, 3)."""
    height, width = frame.shape[:2]
    stride = max(1, min(width // (2 * WIDTH), height // (2 * HEIGHT)))  # reading every pixel of 4K would take 10 ms
    small = cv2.resize(np.ascontiguousarray(frame[::stride, ::stride]), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    cells = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
    cells -= cells.mean()
    cells /= np.float32(max(float(cells.std()), _FLAT_DEVIATION))
    cells.flags.writeable = False
    return FrameSignature(cells)


def _seen_by_both(shift: float, size: int) -> slice:
    """The cells along a side that two signatures share; half a cell more or less is none that was not seen."""
    whole = round(shift)
    return slice(max(whole, 0), size + min(whole, 0))


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Pearson's, from -1 to 1; 0 where one is flat."""
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / scale if scale else 0.0


def _window() -> NDArray[np.float32]:
    return cv2.createHanningWindow((WIDTH, HEIGHT), cv2.CV_32F).astype(np.float32, copy=False)
