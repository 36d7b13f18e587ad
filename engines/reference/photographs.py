"""What a folder of labelled photographs holds: each picture, what it shows, and what nobody has looked for in it.

Two layouts are known, by the head of ``labels.csv``. *Training* (``file,source,classes,box_or_mask,...``) has masks,
``boxes.csv`` in pixels, ``train.txt`` and ``dev.txt``. *Checking* (``file,labels,...``) has labels by eye, and folders
that speak for themselves: masks in ``*_lab`` beside ``*_img``, YOLO boxes beside each picture. No photograph is part
of this repository; nothing here knows a model.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import SourceError
from edge_runtime.reports.report import DEFECT_CLASSES, Region
from edge_runtime.stream.sources import IMAGE_SUFFIXES

EVERYTHING = frozenset(DEFECT_CLASSES)

_TRAINING_COLUMNS = ("file", "source", "classes", "box_or_mask", "note")
_BOX_COLUMNS = ("file", "class", "kind", "x0", "y0", "x1", "y1")
_TIGHT = "full"  # a box of another kind is a tile that has a crack somewhere in it
# What a photograph shows the surface of, where its source or the first word of its note says so.
_SURFACE_OF_SOURCE = {"sdnet2018_windows": "concrete", "sdnet2018_tiles_masks": "concrete", "metu": "concrete"}
_SURFACE_OF_MATERIAL = {
    "concrete": "concrete",
    "concrete block": "concrete",
    "brick": "masonry",
    "stone": "masonry",
    "steel": "bare steel",
    "painted steel": "painted steel",
}
_MASKED_CLASS = {"vt_corrosion": "corrosion"}  # of other sources, masks show cracks
_CRACK_IN_DRONE_MASK = 255  # 204 is a formwork joint, which is no defect
_NOTHING_TO_REPORT = ("caliterra_seq",)  # a flight over open land; its folder has no labels


@dataclass(frozen=True)
class Box:
    """A labelled rectangle."""

    defect_class: str
    region: Region
    tight: bool  # around the defect; else only somewhere inside


@dataclass(frozen=True)
class Mask:
    """A labelled picture of the same size as the photograph."""

    path: Path
    defect_class: str
    lowest: int = 1  # grey values from this one on show the defect


@dataclass(frozen=True)
class Photograph:
    """A picture and what is known of it."""

    path: Path
    source: str
    shows: frozenset[str]  # defect classes
    looked_for: frozenset[str]  # of these it is known whether they are in view, of others it is not
    mask: Mask | None = None
    boxes: tuple[Box, ...] = ()
    faint: bool = False  # its crack can hardly be seen at this size
    surface: str = ""  # one of surfaces.SURFACES; empty where nothing says so

    @property
    def is_undamaged(self) -> bool:
        """Whether every defect was looked for, and none found."""
        return not self.shows and self.looked_for == EVERYTHING


def load_photographs(path: Path) -> list[Photograph]:
    """The photographs of the folder ``path``, or of a list of files in it, such as ``train.txt``.

    Of a folder that has a ``dev.txt``, those in that list: the others are for training.

    Raises:
        SourceError: there is no such folder, or it has neither layout, or a picture that its labels name is missing.
    """
    folder, wanted = _folder_and_list(path)
    rows = _rows(folder / "labels.csv", ("file",))
    if not rows:
        raise SourceError(f"{folder / 'labels.csv'} has no rows; expected one for each photograph")
    found = list(_training(folder, rows) if "classes" in rows[0] else _checking(folder, rows))
    if wanted is not None:
        by_name = {photo.path.relative_to(folder).as_posix(): photo for photo in found}
        unknown = [name for name in wanted if name not in by_name]
        if unknown:
            raise SourceError(f"{folder / 'labels.csv'} has no row for {unknown[0]}, which the list of files names")
        found = [by_name[name] for name in wanted]
    for photo in found:
        for file in [photo.path, *([photo.mask.path] if photo.mask else [])]:
            if not file.is_file():
                raise SourceError(f"there is no {file}, which the labels in {folder} name; copy the folder anew")
    return found


def load_picture(photo: Photograph) -> NDArray[np.uint8]:
    """Its pixels, uint8 (H, W, 3), BGR.

    Raises:
        SourceError: the file holds no picture.
    """
    image = cv2.imread(str(photo.path), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"{photo.path} cannot be read as a picture; copy the folder anew, or drop its label")
    return np.asarray(image, np.uint8)


def load_mask(photo: Photograph, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Where ``photo``, whose ``size`` is (height, width), shows its masked defect: (H, W); None without a mask.

    Raises:
        SourceError: the mask is not one of this picture.
    """
    if photo.mask is None:
        return None
    values = cv2.imread(str(photo.mask.path), cv2.IMREAD_GRAYSCALE)
    if values is None or values.shape != size:
        found = "no picture" if values is None else f"{values.shape[1]}x{values.shape[0]} pixels"
        raise SourceError(
            f"the mask {photo.mask.path} holds {found}; expected {size[1]}x{size[0]}, as {photo.path} has"
        )
    return np.asarray(values >= photo.mask.lowest)


def _folder_and_list(path: Path) -> tuple[Path, list[str] | None]:
    listed = path if path.is_file() else path / "dev.txt"
    folder = listed.parent
    if not path.exists() or not (folder / "labels.csv").is_file():
        raise SourceError(
            f"{path} is no folder of labelled photographs: there is no {folder / 'labels.csv'}; give a folder with "
            "that file, or a list of files in one"
        )
    if not listed.is_file():
        return folder, None
    return folder, [line for line in listed.read_text(encoding="utf-8").splitlines() if line]


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise SourceError(f"{path} has no column {missing[0]!r}; expected {', '.join(columns)}")
        return list(reader)


def _training(folder: Path, rows: list[dict[str, str]]) -> Iterator[Photograph]:
    rows = _rows(folder / "labels.csv", _TRAINING_COLUMNS)
    sizes = {row["file"]: (int(row["width"]), int(row["height"])) for row in rows}
    boxes: dict[str, list[Box]] = {}
    for row in _rows(folder / "boxes.csv", _BOX_COLUMNS) if (folder / "boxes.csv").is_file() else ():
        if row["file"] not in sizes:
            raise SourceError(f"{folder / 'boxes.csv'} has a box in {row['file']}, of which labels.csv has no row")
        width, height = sizes[row["file"]]
        x0, y0, x1, y1 = (float(row[name]) for name in ("x0", "y0", "x1", "y1"))
        region = Region(x0 / width, y0 / height, x1 / width, y1 / height)
        boxes.setdefault(row["file"], []).append(Box(row["class"], region, row["kind"] == _TIGHT))
    for row in rows:
        shows = frozenset(row["classes"].split(";")) - {"none"}
        unknown = shows - EVERYTHING
        if unknown:
            raise SourceError(
                f"{folder / 'labels.csv'}: {row['file']} shows {min(unknown)!r}; expected {', '.join(DEFECT_CLASSES)}, "
                "or none"
            )
        mask = None
        if Path(row["box_or_mask"]).suffix == ".png":
            mask = Mask(folder / row["box_or_mask"], _MASKED_CLASS.get(row["source"], "crack"))
        yield Photograph(
            path=folder / row["file"],
            source=row["source"],
            shows=shows,
            looked_for=shows or EVERYTHING,
            mask=mask,
            boxes=tuple(boxes.get(row["file"], ())),
            faint=row["note"].endswith("faint"),
            surface=_SURFACE_OF_SOURCE.get(row["source"])
            or _SURFACE_OF_MATERIAL.get(row["note"].partition(";")[0].strip(), ""),
        )


def _checking(folder: Path, rows: list[dict[str, str]]) -> Iterator[Photograph]:
    rows = _rows(folder / "labels.csv", ("file", "labels"))
    for row in rows:
        by_eye = _by_eye(row["labels"])
        if by_eye is not None:
            yield Photograph(folder / row["file"], Path(row["file"]).parts[0], by_eye, by_eye or EVERYTHING)
    for path in sorted(folder.glob("*/*_lab/*.png")):
        pictures = _pictures(path.parent.with_name(path.parent.name.removesuffix("_lab") + "_img"), path.stem)
        for picture in pictures:
            values = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            cracked = values is not None and bool((values >= _CRACK_IN_DRONE_MASK).any())
            shows = frozenset({"crack"} if cracked else ())
            mask = Mask(path, "crack", _CRACK_IN_DRONE_MASK)
            yield Photograph(picture, picture.relative_to(folder).parts[0], shows, frozenset({"crack"}), mask)
    for path in sorted(folder.glob("*/**/*.txt")):
        for picture in _pictures(path.parent, path.stem):
            boxes = tuple(Box("crack", region, tight=True) for region in _yolo_regions(path))
            shows = frozenset({"crack"} if boxes else ())
            yield Photograph(picture, picture.relative_to(folder).parts[0], shows, frozenset({"crack"}), boxes=boxes)
    for name in _NOTHING_TO_REPORT:
        for picture in _pictures(folder / name):
            yield Photograph(picture, name, frozenset(), EVERYTHING)


_BY_EYE: Mapping[str, frozenset[str]] = {
    "rust": frozenset({"corrosion"}),
    "crack": frozenset({"crack"}),
    "none": frozenset(),
}


def _by_eye(label: str) -> frozenset[str] | None:
    """The classes that a label in words stands for; None where it is in doubt, or about something else."""
    return _BY_EYE.get(label.partition("(")[0].strip())


def _pictures(folder: Path, stem: str = "*") -> list[Path]:
    return sorted(path for path in folder.glob(f"{stem}.*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _yolo_regions(path: Path) -> Iterator[Region]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            _, x, y, width, height = (float(word) for word in line.split())
        except ValueError:
            raise SourceError(f"{path}, line {number}, is {line!r}; expected: class x y width height") from None
        yield Region(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
