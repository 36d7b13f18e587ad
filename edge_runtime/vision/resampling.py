"""Resizes frames as Pillow does, whose filters vision encoders were trained behind.

Vision encoders were trained on images resized by Pillow, whose filters widen when they shrink (antialiasing);
OpenCV's bicubic does not, and turns a hairline crack into dots. So Pillow's resampling (its ``Resample.c``: two
passes, horizontal first, rounded to 8 bits after each) is done here as products with banded weight matrices. Pillow 13
begins with the pass that shrinks more; models were trained behind the others, and only where colours are cut off at
black or white does it show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import FrameError

Float32 = NDArray[np.float32]

_BLOCK_OUTPUTS = 16  # outputs that share one weight matrix: wider wastes products with zero, narrower wastes calls
_STRIP_ROWS = 64  # at most so many rows are float at once: they stay in cache, and no frame ever exists whole as float
# Larger products OpenBLAS spreads over all cores, where its threads spin until the last one has finished: on a busy
# machine an 8K frame then took 57 s.
_MOST_MULTIPLICATIONS = 1 << 18


def check_frame(frame: Any) -> None:
    """Refuse what cannot be inspected: a frame is uint8 (H, W, 3), BGR as OpenCV gives it, of at least 1x1.

    Raises:
        FrameError: another type, dtype or shape, or no pixels.
    """
    if not isinstance(frame, np.ndarray):
        raise FrameError(
            f"the frame is {type(frame).__name__}, expected a uint8 array (H, W, 3), BGR; read one with cv2.imread"
        )
    if frame.dtype != np.uint8:
        if frame.dtype.kind == "f" and not np.isfinite(frame).all():
            raise FrameError("the frame holds NaN or infinity, expected uint8 in 0..255; drop it, its source is broken")
        raise FrameError(f"the frame is {frame.dtype}, expected uint8; scale it to 0..255 and use .astype(np.uint8)")
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise FrameError(
            f"the frame has shape {frame.shape}, expected (H, W, 3), BGR; cv2.cvtColor converts grey and BGRA images"
        )
    if frame.size == 0:
        raise FrameError(f"the frame has no pixels (shape {frame.shape}); drop it, its source delivered nothing")


@dataclass(frozen=True)
class OutputWindow:
    """Outputs ``[first, first + count)`` of an axis resized to ``full`` pixels: a resize and a crop in one."""

    full: int
    first: int
    count: int


@dataclass(frozen=True)
class Canvas:
    """A plain area of one colour that a frame lies on before it is resized; one that is no larger adds nothing."""

    height: int
    width: int
    top: int  # pixels above the frame
    left: int
    fill: tuple[int, ...]  # (3,), RGB


def resize_like_pillow(
    frame: NDArray[np.uint8],
    rows: OutputWindow,
    columns: OutputWindow,
    resample: int,
    canvas: Canvas | None = None,
) -> Float32:
    """Resize and crop as Pillow would; returns whole numbers 0..255 as f32 (3, rows.count, columns.count), RGB.

    ``resample`` is Pillow's number: 1 Lanczos, 2 bilinear, 3 bicubic. What is resized is the frame, or the ``canvas``
    that it lies on, which is never made: where it is plain, the colour is known.
    """
    canvas = canvas or Canvas(frame.shape[0], frame.shape[1], 0, 0, (0, 0, 0))
    fill = np.asarray(canvas.fill, np.float32)[:, None, None]
    vertical = _bands(canvas.height, rows, resample)
    horizontal = _bands(canvas.width, columns, resample)
    # Rows of the canvas that hold the frame, and that any output sees.
    top = max(vertical[0].first, canvas.top)
    bottom = max(min(vertical[-1].end, canvas.top + len(frame)), top)

    narrowed = np.empty((3, bottom - top, columns.count), np.float32)
    strip_rows = min(_STRIP_ROWS, *map(_most_vectors, horizontal))
    planes = np.empty((3, strip_rows, canvas.width), np.float32)
    planes[...] = fill
    covered = slice(canvas.left, canvas.left + frame.shape[1])
    for y in range(top, bottom, strip_rows):
        strip = np.ascontiguousarray(frame[y - canvas.top : min(y + strip_rows, bottom) - canvas.top])
        count = len(strip)
        for plane, channel in zip(planes, reversed(cv2.split(strip)), strict=True):  # BGR to RGB
            plane[:count, covered] = channel
        target = narrowed[:, y - top : y - top + count]
        for band in horizontal:
            np.matmul(planes[:, :count, band.first : band.end], band.weights.T, out=target[:, :, band.outputs])
    _round_to_bytes(narrowed)

    resized = np.empty((3, rows.count, columns.count), np.float32)
    for band in vertical:
        first, end = min(max(band.first, top), bottom), max(min(band.end, bottom), top)
        weights = band.weights[:, first - band.first : end - band.first]
        seen = narrowed[:, first - top : end - top]
        step = _most_vectors(band)
        for x in range(0, columns.count, step):
            np.matmul(weights, seen[:, :, x : x + step], out=resized[:, band.outputs, x : x + step])
        if end - first < band.end - band.first:  # plain rows above or below
            resized[:, band.outputs] += (1 - weights.sum(axis=1))[:, None] * fill
    return _round_to_bytes(resized)


def resize_whole_like_pillow(frame: NDArray[np.uint8], height: int, width: int, resample: int) -> NDArray[np.uint8]:
    """The whole ``frame``, uint8 (H, W, 3), resized as Pillow would: uint8 (height, width, 3), BGR as it is.

    Rows are made a few at a time, as all of them at once would be four times as large.
    """
    if frame.shape[:2] == (height, width):
        return frame
    resized = np.empty((height, width, 3), np.uint8)
    columns = OutputWindow(width, 0, width)
    for first in range(0, height, _STRIP_ROWS):
        rows = OutputWindow(height, first, min(_STRIP_ROWS, height - first))
        planes = resize_like_pillow(frame, rows, columns, resample)
        resized[first : first + rows.count] = planes[::-1].transpose(1, 2, 0)  # RGB to BGR
    return resized


def _most_vectors(band: _Band) -> int:
    """How many rows or columns to multiply with a band's weights at once."""
    return max(_MOST_MULTIPLICATIONS // band.weights.size, 1)


def _round_to_bytes(values: Float32) -> Float32:
    values += np.float32(0.5)
    np.clip(values, 0, 255, out=values)
    return np.floor(values, out=values)


@dataclass(frozen=True)
class _Band:
    """Weights (outputs, inputs) of neighbouring outputs over the only inputs they see, ``[first, end)``."""

    outputs: slice
    first: int
    end: int
    weights: Float32


@lru_cache(maxsize=256)
def _bands(size: int, window: OutputWindow, resample: int) -> tuple[_Band, ...]:
    """The filter of one axis, from ``size`` inputs; a camera keeps its size, so this is computed once."""
    kernel, radius = _KERNELS[resample]
    scale = size / window.full
    stretch = max(scale, 1.0)  # the filter widens when shrinking: this is the antialiasing
    support = radius * stretch
    if size == window.full:  # Pillow skips the pass
        stretch, support = 1.0, 0.5

    bands = []
    for begin in range(0, window.count, _BLOCK_OUTPUTS):
        end = min(begin + _BLOCK_OUTPUTS, window.count)
        centers = (np.arange(begin, end) + window.first + 0.5) * scale
        firsts = np.maximum((centers - support + 0.5).astype(int), 0)
        ends = np.minimum((centers + support + 0.5).astype(int), size)
        first, last = int(firsts.min()), int(ends.max())
        inputs = np.arange(first, last)
        weights = kernel((inputs[None] - centers[:, None] + 0.5) / stretch)
        weights[(inputs[None] < firsts[:, None]) | (inputs[None] >= ends[:, None])] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        bands.append(_Band(slice(begin, end), first, last, weights.astype(np.float32)))
    return tuple(bands)


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a = -0.5  # Pillow's choice, as Keys 1981
    x = np.abs(x)
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    outer = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


_KERNELS: dict[int, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    1: (_lanczos, 3.0),
    2: (_bilinear, 1.0),
    3: (_bicubic, 2.0),
}
