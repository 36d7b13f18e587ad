"""Print what rendered scenes and photographs measure, side by side: ``python -m engines.reference.picture_statistics``.

A model that learns from scenes finds in photographs what is as strong there as it was in scenes. So every statistic is
taken at the model's input, 256 x 256 pixels; scenes are a column for each surface, photographs for each source.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.cli.exit_codes import exit_code
from engines.reference.photographs import Photograph, load_mask, load_photographs, load_picture
from engines.reference.renderer.defects import BITS
from engines.reference.renderer.lifelike import render_lifelike_scene
from engines.reference.renderer.scenes import FIRST_HELD_OUT_SEED, Scene, render_scene

_SIDE_PX = 256
_LOCAL_PX = 7
_NEAR_PX, _FAR_PX = 3, 9  # from a crack: what it is compared with
_SHADING_PX = 32  # deviation of the blur that leaves the shading
_CELL_PX = 8  # of a crack's length, in which its darkest pixel stands out or does not
_QUARTER = 0.25  # cycles a pixel


@dataclass(frozen=True)
class Picture:
    """One picture at the model's input."""

    grey: NDArray[np.float32]  # (256, 256), 0 to 255
    crack: NDArray[np.bool_] | None  # (256, 256); None where it is not known
    corrosion: NDArray[np.bool_] | None


@dataclass
class Column:
    """What the pictures of one surface or source measure, a number each, in percent unless its row says otherwise."""

    pictures: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, picture: Picture) -> None:
        """Measure one picture."""
        self.pictures += 1
        for name, value in measure(picture).items():
            self.values.setdefault(name, []).append(value)

    def quantiles(self, name: str) -> str:
        """The tenth, fiftieth and ninetieth percentile of a row."""
        values = self.values.get(name)
        if not values:
            return ""
        return " / ".join(f"{value:.3g}" for value in np.quantile(values, (0.1, 0.5, 0.9)))


ROWS = (
    "crack net contrast, %",
    "crack length that does not stand out, %",
    "crack box diagonal, % of the frame's",
    "local contrast in 7 px, %",
    "slow shading, %",
    "spectral slope",
    "power above a quarter cycle, %",
    "corrosion grain in 7 px, grey levels",
    "corrosion, % of the frame",
)


def measure(picture: Picture) -> dict[str, float]:
    """Statistics by row; those of a crack or of corrosion only where one shows."""
    grey, mean = picture.grey, max(float(picture.grey.mean()), 1.0)
    local = local_deviation(grey)
    shading = cv2.GaussianBlur(grey, (0, 0), _SHADING_PX)
    slope, high = spectrum(grey)
    found = {
        "local contrast in 7 px, %": 100 * float(np.median(local)) / mean,
        "slow shading, %": 100 * float(shading.std()) / mean,
        "spectral slope": slope,
        "power above a quarter cycle, %": 100 * high,
    }
    crack, corrosion = picture.crack, picture.corrosion
    if crack is not None and crack.any() and not crack.all():
        found["crack net contrast, %"] = 100 * net_contrast(grey, crack)
        found["crack length that does not stand out, %"] = 100 * hidden_length(grey, crack)
        y, x = np.nonzero(crack)
        found["crack box diagonal, % of the frame's"] = (
            100 * float(np.hypot(np.ptp(x), np.ptp(y))) / (_SIDE_PX * np.sqrt(2))
        )
    if corrosion is not None and corrosion.any():
        found["corrosion grain in 7 px, grey levels"] = float(np.median(local[corrosion]))
        found["corrosion, % of the frame"] = 100 * float(corrosion.mean())
    return found


def local_deviation(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation around each pixel, within 7 x 7: (H, W)."""
    size = (_LOCAL_PX, _LOCAL_PX)
    squares = cv2.blur(grey * grey, size) - cv2.blur(grey, size) ** 2
    return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float32)


def net_contrast(grey: NDArray[np.float32], crack: NDArray[np.bool_]) -> float:
    """How much darker the middle pixel of a crack is than that of what lies 3 to 9 pixels beside it, as a share."""
    mask = crack.astype(np.uint8)
    near, far = (cv2.dilate(mask, np.ones((2 * reach + 1,) * 2, np.uint8)) for reach in (_NEAR_PX, _FAR_PX))
    beside = (far > 0) & (near == 0)
    if not beside.any():
        return 0.0
    around = max(float(np.median(grey[beside])), 1.0)
    return (around - float(np.median(grey[crack]))) / around


def hidden_length(grey: NDArray[np.float32], crack: NDArray[np.bool_]) -> float:
    """Share of the cells along a crack whose darkest pixel lies above the tenth part of darkest pixels elsewhere."""
    cells = _SIDE_PX // _CELL_PX
    shape = cells, _CELL_PX, cells, _CELL_PX
    even = grey - cv2.GaussianBlur(grey, (0, 0), _SHADING_PX / 2)
    darkest = even.reshape(shape).min((1, 3))
    crossed = crack.reshape(shape).any((1, 3))
    if crossed.all():
        return 0.0
    return float((darkest[crossed] > np.quantile(darkest[~crossed], 0.1)).mean())


def spectrum(grey: NDArray[np.float32]) -> tuple[float, float]:
    """The slope of log power over log frequency, and the share of power above a quarter cycle a pixel."""
    window = np.hanning(_SIDE_PX)
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window[:, None] * window[None, :])) ** 2
    radius = np.hypot(np.fft.fftfreq(_SIDE_PX)[:, None], np.fft.rfftfreq(_SIDE_PX)[None, :])
    edges = np.geomspace(4 / _SIDE_PX, 0.5, 12)
    rings = [(radius >= low) & (radius < high) for low, high in pairwise(edges)]
    middle = np.log(np.sqrt(edges[:-1] * edges[1:]))
    level = np.log(np.array([power[ring].mean() for ring in rings]) + 1e-9)
    counted = radius >= 2 / _SIDE_PX
    total = max(float(power[counted].sum()), 1e-9)
    return float(np.polyfit(middle, level, 1)[0]), float(power[counted & (radius >= _QUARTER)].sum()) / total


def picture_of_scene(scene: Scene) -> Picture:
    """A scene at the model's input."""
    layers = (np.asarray(scene.labels & np.uint16(1 << BITS[name]), bool) for name in ("crack", "corrosion"))
    return _shrunk(scene.image, *layers)


def picture_of_photo(photo: Photograph) -> Picture:
    """A photograph at the model's input."""
    image = load_picture(photo)
    mask = load_mask(photo, image.shape[:2])
    masked = photo.mask.defect_class if photo.mask else ""
    return _shrunk(image, mask if masked == "crack" else None, mask if masked == "corrosion" else None)


def _shrunk(image: NDArray[np.uint8], crack: NDArray[np.bool_] | None, corrosion: NDArray[np.bool_] | None) -> Picture:
    side = (_SIDE_PX, _SIDE_PX)
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32), side, interpolation=cv2.INTER_AREA)
    masks = (
        None if mask is None else cv2.resize(mask.astype(np.float32), side, interpolation=cv2.INTER_AREA) > 0.3
        for mask in (crack, corrosion)
    )
    return Picture(np.asarray(grey, np.float32), *(None if mask is None else np.asarray(mask) for mask in masks))


def measured_scenes(scenes: Iterable[Scene]) -> dict[str, Column]:
    """A column for every surface."""
    columns: dict[str, Column] = {}
    for scene in scenes:
        columns.setdefault(scene.surface, Column()).add(picture_of_scene(scene))
    return columns


def measured_photos(photos: Iterable[Photograph]) -> dict[str, Column]:
    """A column for every source."""
    columns: dict[str, Column] = {}
    for photo in photos:
        columns.setdefault(photo.source, Column()).add(picture_of_photo(photo))
    return columns


def statistics_table(columns: dict[str, Column]) -> str:
    """Markdown: a row for each statistic, its tenth, fiftieth and ninetieth percentile in every column."""
    lines = ["| 10 / 50 / 90 % of pictures | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    lines.append("| pictures | " + " | ".join(str(column.pictures) for column in columns.values()) + " |")
    lines += [f"| {name} | " + " | ".join(c.quantiles(name) for c in columns.values()) + " |" for name in ROWS]
    return "\n".join(lines)


_LOOKS: dict[str, Callable[[int], Scene]] = {"shipped": render_scene, "lifelike": render_lifelike_scene}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--look", choices=tuple(_LOOKS), default="lifelike", help="(%(default)s)")
    parser.add_argument("--scenes", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--photos", type=Path, metavar="PATH", help="folder of labelled photographs, or a list in one")
    args = parser.parse_args()
    if args.scenes < 1:
        parser.error(f"--scenes is {args.scenes}; one at least is needed")
    columns = measured_scenes(map(_LOOKS[args.look], range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + args.scenes)))
    if args.photos is not None:
        columns |= measured_photos(load_photographs(args.photos))
    print(statistics_table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("picture_statistics", main))
