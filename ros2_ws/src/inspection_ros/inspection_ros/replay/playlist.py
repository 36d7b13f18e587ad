"""What the camera player shows: a folder, a video, a camera or a rendered flight, once or over and over; no ROS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from edge_runtime.errors import MissingDependencyError, SourceError
from edge_runtime.ros.messages import Frame
from edge_runtime.stream.sources import open_source

RENDERED = "rendered:"
RENDERED_FRAMES = 600  # where nobody says how long the flight is


def open_playlist(source: str, max_frames: int = 0, loop: bool = False) -> Iterator[Frame]:
    """The frames of ``source``, at most ``max_frames`` of them unless that is 0; nothing is read before the first.

    ``source`` is what :func:`edge_runtime.stream.sources.open_source` takes, or ``rendered:SEED``.

    Raises:
        SourceError: there is nothing to read frames from, or nothing in it can be decoded.
        MissingDependencyError: a flight is to be rendered, and the renderer is not installed.
    """
    frames = _over_and_over(source, max_frames) if loop else _once(source, max_frames)
    return islice(frames, max_frames or None)


def _over_and_over(source: str, max_frames: int) -> Iterator[Frame]:
    while True:
        yield from _once(source, max_frames)


def _once(source: str, max_frames: int) -> Iterator[Frame]:
    found = False
    frames = _rendered(source, max_frames) if source.startswith(RENDERED) else _recorded(source)
    for frame in frames:
        found = True
        yield frame
    if not found:
        raise SourceError(f"{source} holds no frame that can be decoded")


def _recorded(source: str) -> Iterator[Frame]:
    with closing(open_source(source)) as opened:
        yield from opened.images()


def _rendered(source: str, max_frames: int) -> Iterator[Frame]:
    seed = source.removeprefix(RENDERED)
    if not seed.isdecimal():
        raise SourceError(f"{source!r} names no flight; give its number, for instance {RENDERED}1")
    try:
        from engines.reference.flight import render_flight  # lazily: only who renders pays for it
    except ImportError as error:
        raise MissingDependencyError(
            f"cannot render a flight: {error}; pip install '.[build]' in a checkout"
        ) from error
    yield from render_flight(int(seed), max_frames or RENDERED_FRAMES)
