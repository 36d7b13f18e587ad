"""Decodes a video file or a network stream, and says which of its frames are damaged.

FFmpeg covers up what it cannot decode: it repeats old blocks, and goes on. A frame that was covered up looks sound, so
that a missing defect would look like a sound wall. Here FFmpeg is told to refuse (``err_detect``), and every frame that
was predicted from a refused one is called damaged too, up to the next key frame.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import suppress

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from edge_runtime.errors import FrameError, SourceError

_REFUSE_DAMAGE = {"err_detect": "crccheck+bitstream+buffer+explode"}
_NEVER = -1
_DAMAGED = "it was decoded from a damaged frame; no key frame has come since"
_MOST_WAITING = 32  # packets whose frames have not come; codecs reorder 16

Content = NDArray[np.uint8] | FrameError


class VideoReader:
    """The frames of a video in the order in which they are shown.

    Args:
        address: a file's path, or a URL that FFmpeg reads.
        timeout_s: of a network stream, how long opening it and each read may take, in seconds; None for a file. Times
            of a stream are not relied on: senders number frames as they send them.
        max_pixels: a larger picture is refused by the decoder before it takes memory.

    Raises:
        SourceError: there is no video to read.
    """

    def __init__(self, address: str, timeout_s: float | None = None, max_pixels: int | None = None) -> None:
        options = {"rtsp_transport": "tcp"} if address.lower().startswith("rtsp") else {}
        self._is_file = timeout_s is None
        try:
            self._container = av.open(address, timeout=timeout_s, options=options)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"it cannot be opened: {error}") from error
        if not self._container.streams.video or self._container.streams.video[0].codec_context is None:
            self._container.close()
            raise SourceError("it holds no video of a known codec")
        self._stream: VideoStream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1  # with more, FFmpeg loses errors, or tells of them late
        limit = {} if max_pixels is None else {"max_pixels": str(max_pixels)}
        self._stream.codec_context.options = {**_REFUSE_DAMAGE, **limit}
        self.width, self.height = self._stream.width, self._stream.height
        self.frames = self._stream.frames  # as the container announces; 0 where it does not say
        self._iterator: Iterator[tuple[Content, float | None]] | None = None

    @property
    def duration_s(self) -> float:
        """How long the container says that it is, in seconds; 0 where it does not say."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return 0.0 if self._container.duration is None else self._container.duration / av.time_base

    def __iter__(self) -> Iterator[tuple[Content, float | None]]:
        """Each frame, uint8 (H, W, 3), BGR, upright, or what is wrong with it; and its time in seconds, if it has one.

        Raises:
            SourceError: the container cannot be read any further.
        """
        try:
            yield from self._frames()
        except av.FFmpegError as error:
            raise SourceError(f"it cannot be read any further: {error.strerror}") from error

    def _frames(self) -> Iterator[tuple[Content, float | None]]:
        base_s = float(self._stream.time_base or 0)
        expected: list[int] = []  # heap of the times of packets whose frames have not come
        errors: dict[int, str] = {}  # of packets whose frames have not come, by time
        key_frames: dict[int | None, int] = {}  # time and packet number of those that have not been shown
        damaged_at = _NEVER  # number of a packet; a key frame that was decoded after it ends the damage
        for number, packet in enumerate(self._container.demux(self._stream)):
            if packet.is_keyframe:
                key_frames[packet.pts] = number
            if self._is_file and packet.size and packet.pts is not None and not packet.is_discard:
                heapq.heappush(expected, packet.pts)
            frames: list[VideoFrame] = []
            try:
                frames = packet.decode()
                error = "its packet is damaged" if packet.is_corrupt and packet.size else ""
            except av.FFmpegError as failure:
                error = f"it cannot be decoded: {failure.strerror}"
            if error:
                damaged_at = number
                if packet.pts is None or not self._is_file:
                    yield FrameError(error), None
                else:
                    errors[packet.pts] = error
            for frame in frames:
                yield from _missing(expected, errors, base_s, before=frame.pts)
                error = "" if frame.pts is None else errors.pop(frame.pts, "")
                if frame.is_corrupt:
                    damaged_at = max(damaged_at, 0)
                elif frame.key_frame and not error and key_frames.pop(frame.pts, number) > damaged_at:
                    damaged_at = _NEVER
                content = _picture(frame) if damaged_at == _NEVER else FrameError(error or _DAMAGED)
                yield content, None if frame.pts is None else frame.pts * base_s
            if len(expected) > _MOST_WAITING:
                yield from _missing(expected, errors, base_s, before=expected[0] + 1)
        yield from _missing(expected, errors, base_s, before=None)

    def read(self) -> tuple[bool, Content | None]:
        """Whether there is a next frame, and that frame, as ``cv2.VideoCapture.read`` gives it."""
        self._iterator = self._iterator or iter(self)
        with suppress(SourceError, StopIteration):
            content, _ = next(self._iterator)
            return True, content
        return False, None

    def release(self) -> None:
        """Close the file or the connection."""
        self._container.close()


def _missing(
    expected: list[int], errors: dict[int, str], base_s: float, before: int | None
) -> Iterator[tuple[Content, float | None]]:
    """The frames that did not come, up to the one of time ``before``, which did: FFmpeg drops some beside damage."""
    while expected and (before is None or expected[0] <= before):
        pts = heapq.heappop(expected)
        if pts != before:
            yield FrameError(errors.pop(pts, "the decoder dropped it beside a damaged frame")), pts * base_s


def _picture(frame: VideoFrame) -> NDArray[np.uint8]:
    image = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
