"""Image files and compressed messages to pixels; what is damaged, too large or ambiguous is refused.

A JPEG has no checksum, and OpenCV keeps to itself what libjpeg warns of: it fills what is missing with grey. Here
simplejpeg decodes it, and takes every warning for an error. Its pixels are OpenCV's to the last bit, and it takes
7.4 ms for 1920x1080 where OpenCV takes 8.2 (one core). Damage that keeps every code of the scan valid, a flipped bit
for instance, cannot be told from a picture by any decoder; PNG has checksums, and there nothing passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from edge_runtime.errors import FrameError
from edge_runtime.vision.image_header import ImageHeader, exif_data, image_header
from edge_runtime.vision.truncation import JPEG_START, is_cut_short

MAX_PIXELS = 160_000_000  # the largest camera that a drone carries today has 151 million
_PIXEL_BYTES = 6  # while a picture is decoded: it, and it once more, turned upright or scaled; 16 bits take twice that

_FULL_BITS = 14  # cameras of 10, 12 and 14 bits put them into 16; whatever exceeds 14 uses all 16
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # by EXIF orientation, behind the transposition of 5 to 8


@dataclass(frozen=True)
class DecodingRules:
    """What is decoded, and how 16-bit pixels are read."""

    max_pixels: int = MAX_PIXELS  # a larger picture is refused before it is decoded
    significant_bits: int | None = None  # of 16-bit pixels; None finds out, and refuses what is ambiguous

    def within(self, size_bytes: int) -> DecodingRules:
        """The same, for pictures that have ``size_bytes`` of memory to be decoded in."""
        return replace(self, max_pixels=min(MAX_PIXELS, size_bytes // _PIXEL_BYTES))


STANDARD = DecodingRules()


def decode_image(
    encoded: bytes,
    name: str = "the image",
    rules: DecodingRules = STANDARD,
    is_upright: bool = True,
    mosaic: int | None = None,
) -> NDArray[np.uint8]:
    """The picture in an image file: uint8 (H, W, 3), BGR; as its EXIF orientation says where ``is_upright``.

    ``mosaic`` is OpenCV's code to make colours of a grey picture that holds a Bayer mosaic.

    Raises:
        FrameError: the bytes are no image, damaged, cut short, larger than ``rules`` allow, or of ambiguous depth; the
            message begins with ``name``.
    """
    try:
        header = image_header(encoded)
        check_size(header.width, header.height, rules, header.bits)
        stored = decoded_pixels(encoded, header, is_upright, keep_grey=mosaic is not None)
        pixels = eight_bit(stored, bits_of(header, rules))
        return pixels if mosaic is None or pixels.ndim == 3 else cast("NDArray[np.uint8]", cv2.cvtColor(pixels, mosaic))
    except FrameError as error:
        raise FrameError(f"{name} {error}") from error
    except cv2.error as error:  # a mosaic of less than its pattern
        raise FrameError(f"{name} cannot be converted: {error.err}") from error


def decoded_pixels(encoded: bytes, header: ImageHeader, is_upright: bool, keep_grey: bool = False) -> NDArray[Any]:
    """Pixels as they are stored, uint8 or uint16: (H, W, 3), or (H, W) of a grey picture where ``keep_grey``.

    Raises:
        FrameError: the bytes are damaged; the message is a predicate, without a subject, as of all that follow here.
    """
    if is_cut_short(encoded):
        raise FrameError(f"is damaged: it is cut short after {len(encoded)} bytes")
    if encoded.startswith(JPEG_START):
        return _jpeg_pixels(encoded, is_upright, keep_grey)
    flags = cv2.IMREAD_ANYDEPTH | (cv2.IMREAD_ANYCOLOR if keep_grey else cv2.IMREAD_COLOR)
    try:
        pixels: Any = cv2.imdecode(
            np.frombuffer(encoded, np.uint8), flags if is_upright else flags | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error as error:
        raise FrameError(f"is damaged: {error.err}") from error
    if pixels is None:
        raise FrameError(f"is damaged: its {len(encoded)} bytes are no whole {header.format}")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise FrameError(f"has pixels of {pixels.dtype}, which is no photograph; convert it to 8 or 16 bits")
    if {header.width, header.height} != set(pixels.shape[:2]):
        raise FrameError(f"is damaged: {header.width}x{header.height} pixels were announced, {pixels.shape} found")
    return cast("NDArray[Any]", pixels)


def _jpeg_pixels(encoded: bytes, is_upright: bool, keep_grey: bool) -> NDArray[np.uint8]:
    try:
        *_, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        is_grey = keep_grey and colours == "Gray"
        pixels = simplejpeg.decode_jpeg(encoded, "GRAY" if is_grey else "BGR", strict=True)
    except ValueError as error:
        raise FrameError(f"is damaged: {error}") from error
    pixels = np.asarray(pixels, np.uint8)
    if is_grey:
        pixels = pixels[..., 0]
    orientation = exif_data(encoded).orientation if is_upright else 1
    if orientation >= 5:
        pixels = cv2.transpose(pixels).astype(np.uint8, copy=False)
    if orientation in _FLIPS:
        pixels = cv2.flip(pixels, _FLIPS[orientation]).astype(np.uint8, copy=False)
    return cast("NDArray[np.uint8]", pixels)


def check_size(width: int, height: int, rules: DecodingRules, bits: int = 8) -> None:
    """Refuse a picture that is too large, of ``bits`` a channel, before it takes memory.

    Raises:
        FrameError: it has more pixels than ``rules`` allow.
    """
    limit = rules.max_pixels // (1 if bits <= 8 else 2)
    if width * height > limit:
        raise FrameError(
            f"is too large: {width}x{height} are {width * height / 1e6:.1f} million pixels, of which "
            f"{limit / 1e6:.1f} million fit the memory budget; raise the budget, or scale the picture down"
        )


def bits_of(header: ImageHeader, rules: DecodingRules) -> int | None:
    """How many bits of 16 the pixels of a file use; None where neither ``rules`` nor the file say."""
    if rules.significant_bits is not None:
        return rules.significant_bits
    if header.format == "TIFF" and 8 < header.bits < 16:
        return 16  # packed ones are stretched to 16 while they are decoded
    if header.largest_value is not None and 255 < header.largest_value < 65535:
        return header.largest_value.bit_length()
    return None


def eight_bit(pixels: NDArray[Any], significant_bits: int | None) -> NDArray[np.uint8]:
    """Pixels of 16 bits scaled to 8, 8-bit ones as they are; ``significant_bits`` of None finds out.

    What exceeds 14 bits uses all 16, as no camera has 15. What does not may be dark, or of 10, 12 or 14 bits, and is
    refused: read as 16 bits, it would be black.

    Raises:
        FrameError: it is not clear how many bits are significant, or the pixels exceed them.
    """
    if pixels.dtype == np.uint8:
        return pixels
    native = np.require(pixels, np.uint16, ["ALIGNED"])  # given rows at odd addresses, OpenCV reads wrong pixels
    largest = int(native.max(initial=0))
    if significant_bits is None:
        if 0 < largest < 1 << _FULL_BITS:
            raise FrameError(
                f"has 16-bit pixels up to {largest}: it is dark, or of {max(largest.bit_length(), 9)} to {_FULL_BITS} "
                "bits; say how many bits are significant (--significant-bits, on ROS the parameter significant_bits)"
            )
        significant_bits = 16
    top = (1 << significant_bits) - 1
    if largest > top:
        raise FrameError(f"has pixels up to {largest}, but {significant_bits} significant bits end at {top}")
    return cast("NDArray[np.uint8]", cv2.convertScaleAbs(native, alpha=255 / top))
