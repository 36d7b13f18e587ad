"""Which images a model is calibrated on: a folder's, or rendered ones; knows no model and no preprocessing."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.opening import sha256_of_file
from edge_runtime.errors import FrameError, SourceError
from edge_runtime.stream.sources import IMAGE_SUFFIXES, load_image
from engines.reference import rendered

Frame = NDArray[np.uint8]

DEFAULT_IMAGES = "rendered:512"
FIRST_SEED = 2_000_000_000  # far from the seeds of training and evaluation; calib_data/index.json says the same

_RENDERED = "rendered:"
_FEWEST = 500  # with less, ranges depend on which images they were
_MOST = 1000  # more cost time and move no range

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationImages:
    """Images to calibrate on, in a fixed order; can be iterated any number of times."""

    name: str
    sha256: str  # of what determines every pixel
    count: int  # an upper bound: images that cannot be read are skipped
    _read: Callable[[], Iterator[Frame]] = field(repr=False)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Frame]:
        """Frames, uint8 (H, W, 3) BGR.

        Raises:
            SourceError: there is not one that can be read.
        """
        frames = 0
        for frame in self._read():
            frames += 1
            yield frame
        if not frames:
            raise SourceError(f"{self.name} holds no image that can be read; give another --images")


def open_images(where: str) -> CalibrationImages:
    """The images of a folder, at most 1000 spread over it; or with ``rendered:N`` the first N scenes of the renderer.

    Raises:
        SourceError: there is no such folder, or no image in it.
    """
    return _rendered(where.removeprefix(_RENDERED)) if where.startswith(_RENDERED) else _folder(Path(where))


def warn_where_few(images: CalibrationImages) -> None:
    """Warn of fewer than 500, which INT8 ranges are found on all the same; rounding is content with fewer."""
    if len(images) < _FEWEST:
        _log.warning(
            "%s holds %d images; INT8 ranges settle with %d or more of them", images.name, len(images), _FEWEST
        )


def _rendered(number: str) -> CalibrationImages:
    if not number.isdecimal() or not 0 < int(number) <= 1_000_000:
        raise SourceError(f"{_RENDERED}{number} is no set of images; expected a number such as {DEFAULT_IMAGES}")
    count = int(number)
    digest = rendered.sha256_of_images(FIRST_SEED, count)
    return CalibrationImages(f"{_RENDERED}{count}", digest, count, lambda: rendered.images(FIRST_SEED, count))


def _folder(path: Path) -> CalibrationImages:
    try:
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and not file.name.startswith(".")
        )
        if not files:
            raise SourceError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        if len(files) > _MOST:
            files = [files[i * len(files) // _MOST] for i in range(_MOST)]
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.name} {sha256_of_file(file)}\n".encode())
    except SourceError:
        raise
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}; give a folder of images, or {DEFAULT_IMAGES}") from error
    return CalibrationImages(str(path), digest.hexdigest(), len(files), lambda: _readable(files))


def _readable(files: list[Path]) -> Iterator[Frame]:
    for file in files:
        frame = _load_or_warn(file)
        if frame is not None:
            yield frame


def _load_or_warn(file: Path) -> Frame | None:
    try:
        return load_image(file)
    except FrameError as error:
        _log.warning("not calibrated on: %s", error)
        return None
