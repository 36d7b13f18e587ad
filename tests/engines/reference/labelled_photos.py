"""Tiny folders of labelled photographs, drawn here, in the two layouts that the evaluation reads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIDE_PX = 64


def draw_picture(path: Path, side_px: int = SIDE_PX) -> None:
    """Grey with a dark line down the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((side_px, side_px, 3), 150, np.uint8)
    image[:, side_px // 2] = 60
    assert cv2.imwrite(str(path), image)


def draw_mask(path: Path, value: int, side_px: int = SIDE_PX) -> None:
    """``value`` in the upper half of the column left of the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((side_px, side_px), np.uint8)
    mask[: side_px // 2, side_px // 2 - 1] = value
    assert cv2.imwrite(str(path), mask)


def write_training_folder(folder: Path) -> Path:
    """Four photographs: a crack with a mask, a crack in a tile, corrosion with a mask, and nothing; two in dev.txt."""
    rows = [
        ("tiles/images/a.jpg", "tiles", "crack", "tiles/masks/a.png", "pixel mask"),
        ("windows/images/b.jpg", "windows", "crack", "boxes.csv", "crack visibility by eye/filter: faint"),
        ("vt_corrosion/images/c.jpg", "vt_corrosion", "corrosion;spalling", "vt_corrosion/masks/c.png", ""),
        ("plain/images/d.jpg", "plain", "none", "", ""),
    ]
    for name, *_ in rows:
        draw_picture(folder / name)
    draw_mask(folder / "tiles/masks/a.png", 255)
    draw_mask(folder / "vt_corrosion/masks/c.png", 80)
    lines = [f"{name},{source},{shown},{label},64,64,{note}" for name, source, shown, label, note in rows]
    _write(folder / "labels.csv", "file,source,classes,box_or_mask,width,height,note", *lines)
    _write(folder / "boxes.csv", "file,class,kind,x0,y0,x1,y1", "windows/images/b.jpg,crack,tile256,0,0,32,64")
    _write(folder / "dev.txt", "plain/images/d.jpg", "tiles/images/a.jpg")
    _write(folder / "train.txt", "windows/images/b.jpg", "vt_corrosion/images/c.jpg")
    return folder


def write_checking_folder(folder: Path) -> Path:
    """A drone photograph of two windows with a mask, one with a YOLO box, rust, a doubtful one, and open land."""
    draw_picture(folder / "drone/test_img/a.jpg", 512)
    draw_mask(folder / "drone/test_lab/a.png", 255, 512)
    draw_picture(folder / "quay/k1/b.jpg")
    _write(folder / "quay/k1/b.txt", "0 0.5 0.5 0.25 1.0")
    draw_picture(folder / "rust/c.jpg")
    draw_picture(folder / "rust/d.jpg")
    draw_picture(folder / "caliterra_seq/e.jpg")
    _write(
        folder / "labels.csv", "file,labels,label_source", "rust/c.jpg,rust(chain),by eye", "rust/d.jpg,doubt,by eye"
    )
    return folder


def _write(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
