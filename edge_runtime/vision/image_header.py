"""What the bytes of an image file say before they are decoded: format, size, bits and EXIF; decodes no pixel."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import simplejpeg

from edge_runtime.errors import FrameError
from edge_runtime.vision.truncation import JPEG_START, PNG_START

_MOST_TAGS = 1000  # in one directory of a TIFF; a damaged count may say 65535
_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}  # of one number, by the type of TIFF 6.0
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _LARGEST_VALUE, _EXIF, _GPS, _DNG = 256, 257, 258, 274, 281, 0x8769, 0x8825, 50706
_TAKEN, _TAKEN_OFFSET, _TAKEN_FRACTION = 0x9003, 0x9011, 0x9291
_FTYP = {  # what ISO 14496-12 files call themselves
    b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"hevc": "HEIC",
    b"avif": "AVIF", b"avis": "AVIF", b"crx ": "CR3",
}  # fmt: skip
_OTHERS = {  # formats that are known and not read, by how they begin
    b"GIF8": "GIF", b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL", b"8BPS": "Photoshop", b"II+\0": "BigTIFF", b"MM\0+": "BigTIFF", b"v/1\x01": "OpenEXR",
    b"%PDF": "PDF",
}  # fmt: skip


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself."""

    format: str  # "JPEG", "PNG", "BMP", "TIFF" or "WebP"
    width: int
    height: int
    bits: int = 8  # of one channel, as it is stored
    largest_value: int | None = None  # that a channel may have, where a TIFF says so

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


@dataclass(frozen=True)
class ExifData:
    """What a camera wrote beside the pixels."""

    orientation: int = 1  # 1 to 8, as EXIF numbers them; 1 is upright
    taken_s: float | None = None  # seconds since 1970; by the camera's own clock where it names no time zone
    position: tuple[float, float] | None = None  # latitude and longitude, degrees, WGS 84


def image_header(encoded: bytes) -> ImageHeader:
    """The header of a JPEG, PNG, BMP, TIFF or WebP file.

    Raises:
        FrameError: it is none of them, or its header is damaged; the message is a predicate, without a subject.
    """
    for start, read in _READERS.items():
        if encoded.startswith(start):
            try:
                header = read(encoded)
            except FrameError:
                raise
            except (ValueError, struct.error, IndexError, KeyError, OverflowError) as error:
                raise FrameError(f"is damaged: its header cannot be read: {error}") from error
            if header.width < 1 or header.height < 1:
                raise FrameError(f"is damaged: its header says {header.width}x{header.height} pixels")
            return header
    raise FrameError(_strange(encoded) if encoded else "is damaged: it is empty")


def exif_data(encoded: bytes) -> ExifData:
    """The EXIF data of a JPEG, PNG, TIFF or WebP file; what is missing or damaged is as in ``ExifData()``."""
    try:
        tiff = _exif_block(encoded)
        main = dict(_tags(tiff, _first_directory(tiff))) if tiff else {}
        detail = dict(_tags(tiff, main[_EXIF])) if isinstance(main.get(_EXIF), int) else {}  # type: ignore[arg-type]
        place = dict(_tags(tiff, main[_GPS])) if isinstance(main.get(_GPS), int) else {}  # type: ignore[arg-type]
    except (ValueError, struct.error, IndexError, KeyError):
        return ExifData()
    orientation = main.get(_ORIENTATION)
    return ExifData(
        orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        _taken_s(detail),
        _position(place),
    )


def is_image(encoded: bytes) -> bool:
    """Whether bytes begin as a format does that is read."""
    return encoded.startswith(tuple(start for start in _READERS if start != b"RIFF")) or encoded[8:12] == b"WEBP"


def unread_format(encoded: bytes) -> str:
    """The name of a format that is known and not read, by the first bytes of a file; empty for all others."""
    if encoded[4:8] == b"ftyp":
        return _FTYP.get(encoded[8:12], "MP4 or QuickTime")
    return next((name for start, name in _OTHERS.items() if encoded.startswith(start)), "")


def _strange(encoded: bytes) -> str:
    """Why bytes of another format are refused."""
    if known := unread_format(encoded):
        return f"is {known}, which is not read; convert it to JPEG, PNG, BMP, TIFF or WebP"
    return f"is damaged or no image: its {len(encoded)} bytes are neither JPEG, PNG, BMP, TIFF nor WebP"


def _jpeg(encoded: bytes) -> ImageHeader:
    height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
    return ImageHeader("JPEG", width, height)


def _png(encoded: bytes) -> ImageHeader:
    name, width, height, bits = struct.unpack_from(">4sIIB", encoded, 12)
    if name != b"IHDR":
        raise ValueError(f"IHDR is missing, found {name!r}")
    return ImageHeader("PNG", width, height, bits)


def _bmp(encoded: bytes) -> ImageHeader:
    (header_bytes,) = struct.unpack_from("<I", encoded, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", encoded, 18)
    return ImageHeader("BMP", width, abs(height))  # rows from top to bottom are told by a negative height


def _webp(encoded: bytes) -> ImageHeader:
    if encoded[8:12] != b"WEBP":
        raise ValueError(f"RIFF of {encoded[8:12]!r}")
    kind = encoded[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(encoded[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", encoded, 21)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", encoded, 26))
    else:
        raise ValueError(f"WebP of {kind!r}")
    return ImageHeader("WebP", width, height)


def _tiff(encoded: bytes) -> ImageHeader:
    tags = dict(_tags(encoded, _first_directory(encoded)))
    if _DNG in tags:
        raise FrameError("is DNG, a camera's raw format, which is not read; convert it to JPEG, PNG or TIFF")
    width, height, bits, largest = (tags.get(tag) for tag in (_WIDTH, _HEIGHT, _BITS, _LARGEST_VALUE))
    if not isinstance(width, int) or not isinstance(height, int):
        raise ValueError("it does not say how large the image is")
    return ImageHeader(
        "TIFF",
        width,
        height,
        bits if isinstance(bits, int) else 1,
        largest if isinstance(largest, int) and largest > 0 else None,
    )


_READERS: Mapping[bytes, Callable[[bytes], ImageHeader]] = {
    JPEG_START: _jpeg,
    PNG_START: _png,
    b"BM": _bmp,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
}


def _exif_block(encoded: bytes) -> bytes:
    """The EXIF data, itself a TIFF; empty where there is none."""
    if encoded.startswith(JPEG_START):
        return _jpeg_exif(encoded)
    if encoded.startswith(PNG_START):
        return _chunk(encoded, 8, b"eXIf", ">", name_first=False)
    if encoded.startswith(b"RIFF"):
        return _chunk(encoded, 12, b"EXIF", "<", name_first=True).removeprefix(b"Exif\0\0")
    return encoded if encoded.startswith((b"II*\0", b"MM\0*")) else b""


def _jpeg_exif(encoded: bytes) -> bytes:
    at = 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF and encoded[at + 1] not in (0xDA, 0xD9):
        if encoded[at + 1] == 0xFF:  # fill
            at += 1
            continue
        size_bytes = int.from_bytes(encoded[at + 2 : at + 4], "big")
        if encoded[at + 1] == 0xE1 and encoded[at + 4 : at + 10] == b"Exif\0\0":
            return encoded[at + 10 : at + 2 + size_bytes]
        at += 2 + size_bytes
    return b""


def _chunk(encoded: bytes, at: int, wanted: bytes, order: str, name_first: bool) -> bytes:
    """The content of a chunk of a PNG (size, name, content, checksum) or of RIFF (name, size, content, padding)."""
    while at + 8 <= len(encoded):
        head = encoded[at : at + 8]
        name, size = (head[:4], head[4:]) if name_first else (head[4:], head[:4])
        (size_bytes,) = struct.unpack(f"{order}I", size)
        if name == wanted:
            return encoded[at + 8 : at + 8 + size_bytes]
        at += 8 + size_bytes + (size_bytes % 2 if name_first else 4)
    return b""


def _order(tiff: bytes) -> str:
    return "<" if tiff.startswith(b"II") else ">"


def _first_directory(tiff: bytes) -> int:
    (offset,) = struct.unpack_from(f"{_order(tiff)}I", tiff, 4)
    return int(offset)


_Value = int | str | tuple[float, ...]


def _tags(tiff: bytes, offset: int) -> Iterator[tuple[int, _Value]]:
    """Numbers and texts of a directory: the first of several whole numbers, all of several fractions."""
    order = _order(tiff)
    (count,) = struct.unpack_from(f"{order}H", tiff, offset)
    for number in range(min(count, _MOST_TAGS)):
        at = offset + 2 + 12 * number
        tag, kind, length = struct.unpack_from(f"{order}HHI", tiff, at)
        size_bytes = _TAG_BYTES.get(kind, 0) * length
        if not size_bytes:
            continue
        start = at + 8 if size_bytes <= 4 else struct.unpack_from(f"{order}I", tiff, at + 8)[0]
        if start + size_bytes > len(tiff):
            continue
        if kind == 2:
            yield tag, tiff[start : start + size_bytes].split(b"\0")[0].decode("latin-1")
        elif kind == 5:
            parts = struct.unpack_from(f"{order}{2 * length}I", tiff, start)
            yield tag, tuple(above / below if below else 0.0 for above, below in zip(*[iter(parts)] * 2, strict=True))
        else:
            yield tag, int(struct.unpack_from(f"{order}{ {1: 'B', 3: 'H', 4: 'I', 7: 'B'}[kind] }", tiff, start)[0])


def _taken_s(tags: Mapping[int, _Value]) -> float | None:
    """DateTimeOriginal with its fraction; of a time without a zone, as if the camera's clock went by UTC."""
    text, fraction, zone = (tags.get(tag) for tag in (_TAKEN, _TAKEN_FRACTION, _TAKEN_OFFSET))
    try:
        taken = datetime.strptime(str(text).strip(), "%Y:%m:%d %H:%M:%S").replace(tzinfo=timezone.utc)
        seconds = taken.timestamp()
    except (ValueError, OverflowError):
        return None
    if isinstance(fraction, str) and fraction.strip().isdecimal():
        seconds += float(f"0.{fraction.strip()}")
    if isinstance(zone, str) and len(zone) >= 6 and zone[1:3].isdecimal() and zone[4:6].isdecimal():
        ahead = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6])).total_seconds()
        seconds += ahead if zone[0] == "-" else -ahead
    return seconds


def _position(tags: Mapping[int, _Value]) -> tuple[float, float] | None:
    """Latitude and longitude from GPSLatitudeRef (1) to GPSLongitude (4)."""
    degrees = []
    for reference, value in ((tags.get(1), tags.get(2)), (tags.get(3), tags.get(4))):
        if not isinstance(value, tuple) or len(value) != 3 or not isinstance(reference, str):
            return None
        angle = value[0] + value[1] / 60 + value[2] / 3600
        degrees.append(-angle if reference[:1] in ("S", "W") else angle)
    latitude, longitude = degrees
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None
