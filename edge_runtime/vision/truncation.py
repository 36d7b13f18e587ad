"""Whether the bytes of a JPEG or a PNG stop before the picture does; knows their marks, and decodes neither."""

from __future__ import annotations

import re

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"

_PNG_END = b"IEND\xaeB`\x82"
# What libjpeg stops at, between segments and in a scan: neither a stuffed zero, nor fill, nor one of the markers that
# stand alone and mean nothing here (TEM, RST0 to RST7).
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_START_OF_IMAGE, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"


def is_cut_short(encoded: bytes) -> bool:
    """Whether a JPEG or a PNG lacks its end; False of anything else. What is appended to a whole picture does no harm.

    OpenCV 4 fills what a truncated JPEG lacks with grey, and says nothing.
    """
    if encoded.startswith(JPEG_START):
        return not _has_jpeg_end(encoded)
    return encoded.startswith(PNG_START) and _PNG_END not in encoded


def _has_jpeg_end(encoded: bytes) -> bool:
    """ActivationRunner from marker to marker (ITU-T T.81, annex B) as far as the end of the image.

    Segments are stepped over by their lengths, so that the end of a thumbnail in one of them is not taken for it.
    """
    behind = len(_START_OF_IMAGE)
    while marker := _JPEG_MARKER.search(encoded, behind):
        if marker[0] in (_START_OF_IMAGE, _END_OF_IMAGE):
            return marker[0] == _END_OF_IMAGE  # another image begins: this one was cut, and something appended
        behind = marker.end() + int.from_bytes(encoded[marker.end() : marker.end() + 2], "big")
    return False
