"""Remake the golden arrays: ``python -m tests.parity.make_golden``. Needs the ``parity`` extra."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from edge_runtime.vision.image_processors import layout_of
from engines.evaluation.fidelity import Trace
from engines.evaluation.parity import open_transformers
from engines.families import read_model
from tests.parity import golden_families, golden_processors
from tests.parity.golden import (
    CHECKPOINTS,
    GOLDEN,
    PROMPT,
    TOKENS,
    golden_layout,
    golden_pixels,
    write_golden_checkpoint,
)
from tests.parity.golden_native import FRAMES, NAMES, ROWS, GoldenPicture, patch_bytes, write_native_checkpoint
from tests.parity.golden_native import TOKENS as PICTURE_TOKENS
from tests.parity.golden_tiles import GOLDEN as GOLDEN_TILES
from tests.parity.golden_tiles import NAME, SHAPES, GoldenFrame, bytes_of, golden_frame, write_next_checkpoint
from tests.parity.golden_tiles import TOKENS as TILE_TOKENS


def make_golden(name: str, directory: Path) -> Trace:
    """What transformers makes of the checkpoint of that name, written below ``directory``."""
    checkpoint = write_golden_checkpoint(name, directory)
    return open_transformers(checkpoint.path, PROMPT, eos_token_ids=())(
        golden_pixels(checkpoint), TOKENS, golden_layout(checkpoint)
    )


def make_golden_tiles(directory: Path) -> dict[str, GoldenFrame]:
    """What transformers makes of frames of every shape, its own processor's tiles included."""
    import torch
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    checkpoint = write_next_checkpoint(directory)
    image = read_model(checkpoint).image
    grids = checkpoint.config["image_grid_pinpoints"]
    processor = LlavaNextImageProcessorPil(**checkpoint.image_processor, image_grid_pinpoints=grids)
    trace = open_transformers(checkpoint.path, PROMPT, eos_token_ids=())
    found = {}
    for shape in SHAPES:
        frame = golden_frame(shape)
        made = processor(Image.fromarray(np.ascontiguousarray(frame[..., ::-1])), return_tensors="pt")["pixel_values"]
        pixels = torch.as_tensor(made)[0].float().numpy()
        tiles = np.rint(bytes_of(pixels)).astype(np.uint8)
        found[shape] = GoldenFrame(tiles, trace(pixels, TILE_TOKENS, layout_of(image, *frame.shape[:2])))
    return found


def make_golden_pictures(name: str, directory: Path) -> dict[str, GoldenPicture]:
    """What transformers makes of frames of every shape, its own processor's patches included."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    checkpoint = write_native_checkpoint(name, directory)
    image = read_model(checkpoint, options=FRAMES).image
    settings = {key: value for key, value in checkpoint.image_processor.items() if key != "image_processor_type"}
    processor = Qwen2VLImageProcessorPil(**settings)
    trace = open_transformers(checkpoint.path, PROMPT, eos_token_ids=())
    found = {}
    for shape in SHAPES:
        frame = golden_frame(shape)
        picture = Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
        if image.multiple > 1:  # whole windows, which the processor then leaves as they are
            [source] = layout_of(image, *frame.shape[:2]).sources
            picture = picture.resize((source.columns.full, source.rows.full), Image.Resampling.BICUBIC)
        made = processor(picture, return_tensors="np")["pixel_values"]
        frames = settings["temporal_patch_size"]
        still = np.asarray(made, np.float32).reshape(len(made), 3, frames, -1)[:, :, 0].reshape(len(made), -1)
        patches = np.rint(patch_bytes(still, settings)).astype(np.uint8)
        found[shape] = GoldenPicture(patches, trace(still[None], PICTURE_TOKENS, layout_of(image, *frame.shape[:2])))
    return found


def main() -> None:
    """Write every array that tests compare with."""
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for name in CHECKPOINTS:
            trace = make_golden(name, Path(directory))
            np.savez_compressed(
                GOLDEN / f"{name}.npz",
                features=trace.features,
                image_embeddings=trace.image_embeddings,
                logits=trace.logits,
                tokens=np.array(trace.tokens),
            )
            print(f"{name}: {(GOLDEN / f'{name}.npz').stat().st_size} bytes")
        arrays = {}
        for shape, golden in make_golden_tiles(Path(directory)).items():
            arrays[f"{shape} tiles"] = golden.tiles
            for field in ("features", "image_embeddings", "logits", "tokens"):
                arrays[f"{shape} {field}"] = np.asarray(getattr(golden.trace, field))
        np.savez_compressed(GOLDEN_TILES, **arrays)
        print(f"{NAME}: {GOLDEN_TILES.stat().st_size} bytes")
        for name in NAMES:
            arrays = {}
            for shape, picture in make_golden_pictures(name, Path(directory)).items():
                arrays[f"{shape} patches"] = picture.patches
                arrays[f"{shape} logits"] = picture.trace.logits[:ROWS]
                for field in ("features", "image_embeddings", "tokens"):
                    arrays[f"{shape} {field}"] = np.asarray(getattr(picture.trace, field))
            np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
            print(f"{name}: {(GOLDEN / f'{name}.npz').stat().st_size} bytes")
    golden_processors.main()
    golden_families.main()


if __name__ == "__main__":
    main()
