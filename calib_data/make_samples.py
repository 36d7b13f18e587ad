"""Render the samples that ``index.json`` names and note their hashes: ``python -m calib_data.make_samples``.

Run it when the renderer changes; knows nothing of what calibration does with the images.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2

from engines.reference.renderer.scenes import render_scene

HERE = Path(__file__).parent
QUALITY = 85  # of the JPEG


def main() -> None:
    """Write every sample again."""
    index = json.loads((HERE / "index.json").read_text(encoding="utf-8"))
    (HERE / "samples").mkdir(exist_ok=True)
    for sample in index["samples"]:
        path = HERE / sample["file"]
        cv2.imwrite(str(path), render_scene(sample["seed"]).image, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
        sample["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{sample['file']}: {path.stat().st_size} bytes")
    (HERE / "index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
