"""Which findings of one frame are those of the frames before: one crack in ten frames is one track; draws nothing.

A finding continues a track of its class whose region, carried along with the camera's motion, overlaps its own. The
motion comes from the signatures of the two frames (:mod:`edge_runtime.vision.frame_signature`), so a drone may drift a
quarter of a frame between two reports. Where the picture cut to something else, every finding is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edge_runtime.reports.report import Finding, Region
from edge_runtime.vision.frame_signature import FrameSignature, Motion

MIN_IOU = 0.2  # of one defect in two frames; a model's regions of it wander
_SLACK = 0.02  # of the frame, added on every side: hairlines have boxes so thin that a pixel of error halves their IoU
_FORGET_S = 15.0  # what was not seen for so long is a new finding when it is seen again


@dataclass(frozen=True)
class _Track:
    track_id: int
    defect_class: str
    region: Region  # where it should be in the newest frame; may lie outside
    seen_s: float


class FindingTracker:
    """Follows the findings of one camera; ``ids`` gives each new track its number, and may be shared by cameras."""

    def __init__(self, ids: Iterator[int]) -> None:
        self._ids = ids
        self._signature: FrameSignature | None = None
        self._tracks: list[_Track] = []

    def follow(self, findings: Sequence[Finding], signature: FrameSignature, now_s: float) -> tuple[Finding, ...]:
        """The findings with their ``track_id``; ``signature`` is of their frame, ``now_s`` counts seconds from
        anywhere.

        No two findings of a frame get the same track.
        """
        motion = signature.motion_since(self._signature) if self._signature is not None else None
        self._signature = signature
        known = [] if motion is None else [_carried(track, motion) for track in self._tracks]
        known = [track for track in known if now_s - track.seen_s <= _FORGET_S]
        continued = _match(findings, known)
        tracks = [
            _Track(
                known[continued[index]].track_id if index in continued else next(self._ids),
                finding.defect_class,
                finding.region,
                now_s,
            )
            for index, finding in enumerate(findings)
        ]
        unseen = set(range(len(known))) - set(continued.values())
        self._tracks = tracks + [known[number] for number in sorted(unseen)]
        return tuple(replace(f, track_id=track.track_id) for f, track in zip(findings, tracks, strict=True))


def _match(findings: Sequence[Finding], tracks: Sequence[_Track]) -> dict[int, int]:
    """Which track each finding continues, by their positions; the best overlaps are served first."""
    overlaps = [
        (_grown(track.region).iou(_grown(finding.region)), index, number)
        for index, finding in enumerate(findings)
        for number, track in enumerate(tracks)
        if finding.defect_class == track.defect_class
    ]
    matched: dict[int, int] = {}
    for overlap, index, number in sorted(overlaps, reverse=True):
        if overlap >= MIN_IOU and index not in matched and number not in matched.values():
            matched[index] = number
    return matched


def _carried(track: _Track, motion: Motion) -> _Track:
    region = track.region
    moved = Region(
        region.x_min + motion.dx, region.y_min + motion.dy, region.x_max + motion.dx, region.y_max + motion.dy
    )
    return replace(track, region=moved)


def _grown(region: Region) -> Region:
    """The part of ``region`` that is in the frame, and some slack around it."""
    x_min, y_min, x_max, y_max = (min(max(corner, 0.0), 1.0) for corner in vars(region).values())
    return Region(x_min - _SLACK, y_min - _SLACK, x_max + _SLACK, y_max + _SLACK)
