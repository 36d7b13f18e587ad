"""What a bundle reports on real photographs, played through the ROS camera player: no bar, only an honest look.

    ros2_ws/run .venv/bin/python -m benchmarks.real_photos BUNDLE PHOTOS

PHOTOS is a folder laid out as ``groups`` below reads it; none of it is part of this repository, and nothing is trained
on it. Every group flies past the node of its own, slowly enough that no frame is dropped.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2

from edge_runtime.cli.exit_codes import exit_code
from edge_runtime.errors import SourceError
from edge_runtime.flight.log import load_flight

CRACK_IN_MASK = 255  # of the uav75 masks; 204 is a formwork joint


@dataclass(frozen=True)
class Group:
    """Photographs that share one question."""

    question: str
    photos: list[Path]
    defect_class: str | None  # whose report counts; None: any finding does


def groups(root: Path) -> list[Group]:
    """The photographs under ``root``, by what is asked of them."""
    with (root / "labels.csv").open(newline="", encoding="utf-8") as file:
        labels = {root / row["file"]: row["labels"] for row in csv.DictReader(file)}
    drone, sound = [], []
    for mask in sorted(root.glob("uav75/*_lab/*.png")):
        photo = next(mask.parent.with_name(mask.parent.name.replace("_lab", "_img")).glob(f"{mask.stem}.*"))
        has_crack = bool((cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) == CRACK_IN_MASK).any())
        (drone if has_crack else sound).append(photo)
    quay = [photo for photo in sorted(root.glob("omu_quay/**/*")) if photo.suffix.lower() in {".jpg", ".png"}]
    rust = [photo for photo, label in labels.items() if label.startswith("rust")]
    no_rust = [photo for photo, label in labels.items() if label.startswith("none") and "rust" in photo.parent.name]
    facades = sorted(root.glob("pexels_facades/*.jpg"))
    road = sorted(root.glob("caliterra_seq/*.jpg"))
    found = [
        Group("uav75, cracked concrete: crack reported", drone, "crack"),
        Group("uav75, no crack in the mask: crack reported", sound, "crack"),
        Group("omu_quay, cracked quay walls: crack reported", quay, "crack"),
        Group("bikit, cracked bridge: crack reported", [root / "bikit/11_001990.jpg"], "crack"),
        Group("unsplash, rust: corrosion reported", rust, "corrosion"),
        Group("unsplash, orange but no rust: corrosion reported", no_rust, "corrosion"),
        Group("pexels, undamaged facades: any finding", facades, None),
        Group("caliterra, roads from above: any finding", road, None),
    ]
    return [group for group in found if group.photos]


def count_reports(bundle: str, group: Group, rate_hz: float) -> tuple[int, int]:
    """(photographs in which it was reported, photographs that arrived)."""
    with tempfile.TemporaryDirectory() as folder:
        for index, photo in enumerate(group.photos):
            (Path(folder) / f"{index:04}{photo.suffix}").symlink_to(photo.resolve())
        out = Path(folder) / "out" / "flight"
        command = [sys.executable, "-m", "inspection_ros.demo", bundle, "--source", folder, "--rate", str(rate_hz)]
        command += ["--frames", str(len(group.photos)), "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        reports = [record.report for record in load_flight(out.with_name("flight.jsonl")).records]
    wanted = group.defect_class
    hits = sum(any(wanted in (None, finding.defect_class) for finding in report.findings) for report in reports)
    return hits, len(reports)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE", help="directory that edge-engines build wrote")
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="folder of photographs")
    parser.add_argument("--rate", type=float, default=3.0, help="photographs a second (%(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.photos.is_dir():
        raise SourceError(
            f"there is no folder {args.photos}; give your own, as the photographs are not in the repository"
        )
    rows = {group.question: count_reports(args.bundle, group, args.rate) for group in groups(args.photos)}
    if args.json:
        print(json.dumps({question: {"reported": hits, "photos": total} for question, (hits, total) in rows.items()}))
        return 0
    print("| photographs | share |\n|---|---|")
    for question, (hits, total) in rows.items():
        print(f"| {question} | {hits} of {total}, {hits / max(total, 1):.0%} |")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("real_photos", main))
