"""Golden arrays of image processors: the tiles and tokens that transformers makes of frames of five shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import PixelSpec, TiledImage, TileTags
from engines.families.synthetic import SYNTHETIC_CONFIGS, synthetic_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "processors.npz"
SIDE, EDGE, TILE_TOKENS = 28, 112, (2, 2)
SHAPES = {"square": (100, 100), "4:3": (96, 128), "16:9": (90, 160), "portrait": (160, 91), "3:1": (20, 61)}
ROWS = COLUMNS = EDGE // SIDE
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGE = "<image>"
BEFORE, AFTER = "User:\n", "\nWhat is it?"


@dataclass(frozen=True)
class GoldenImage:
    """What a processor makes of one frame."""

    tiles: NDArray[np.uint8]  # (N, 3, H, W): pixel tensors before they are normalised
    tokens: tuple[int, ...]  # of the image, with the text around and between its tiles


def tagging_tokenizer() -> Tokenizer:
    """Single bytes, an empty line in one token as SmolVLM's tokenizer has it, and the tags of both families."""
    document: dict[str, Any] = json.loads(
        synthetic_checkpoint("tiny-llava", SYNTHETIC_CONFIGS["tiny-llava"]).tokenizer_json
    )
    vocabulary, newline = document["model"]["vocab"], "Ċ"
    vocabulary[newline * 2] = len(vocabulary)
    document["model"]["merges"] = [[newline, newline]]
    tags = [f"<row_{row + 1}_col_{column + 1}>" for row in range(ROWS) for column in range(COLUMNS)]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([*tags, "<fake_token_around_image>", "<global-img>", "<img>", "</img>"])
    return tokenizer


def _tags(tokenizer: Tokenizer, family: str) -> TileTags:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    fake, whole = "<fake_token_around_image>", "<global-img>"
    if family == "internvl":
        begins, nothing = ids("<img>"), ((),) * (12 - 1)
        return TileTags(((begins, *nothing), *((((),) * 12,) * 11)), (), begins, ids("</img>"))
    return TileTags(
        before_tile=tuple(
            tuple(
                ids(("\n" if row and not column else "") + f"{fake}<row_{row + 1}_col_{column + 1}>")
                for column in range(COLUMNS)
            )
            for row in range(ROWS)
        ),
        before_overview=ids(f"\n\n{fake}{whole}"),
        before_single=ids(fake + whole),
        behind=ids(fake),
    )


def _record(rule: str, tiles: int, resample: int, statistics: tuple[tuple[float, ...], ...]) -> TiledImage:
    edge = EDGE if rule == "longest_edge" else None
    most = tiles if edge is None else min(tiles, ROWS)  # a side
    grids = tuple((r, c) for r in range(1, most + 1) for c in range(1, most + 1) if r * c <= tiles)
    pixels = PixelSpec(SIDE, SIDE, resample, 1 / 255, *statistics)
    tags = _tags(tagging_tokenizer(), "smolvlm" if edge else "internvl")
    return TiledImage("tiles", pixels, grids, "last", (0, 0, 0), TILE_TOKENS, (), 2**16, rule, edge, tags)


_HALF = ((0.5,) * 3, (0.5,) * 3)
RECORDS: Mapping[str, TiledImage] = {
    "smolvlm": _record("longest_edge", ROWS * COLUMNS, 1, _HALF),
    "smolvlm one tile": _record("longest_edge", 1, 1, _HALF),
    "internvl": _record("nearest_ratio", 12, 3, (MEAN, STD)),
    "internvl 4": _record("nearest_ratio", 4, 3, (MEAN, STD)),
}


def golden_frame(shape: str) -> NDArray[np.uint8]:
    """A frame (H, W, 3) of coloured patches and fine lines; raw bits, because a generator's distributions change.

    Its colours are far from black and white: there versions of Pillow differ, which resize columns or rows first.
    """
    height, width = SHAPES[shape]
    bits = np.random.PCG64(height * 1000 + width).random_raw(3 * 6 * 8)
    coarse = (80 + (bits >> np.uint64(58))).astype(np.uint8).reshape(6, 8, 3)
    frame = coarse[np.arange(height) * 6 // height][:, np.arange(width) * 8 // width]
    frame[:: max(height // 7, 1)] += 20
    return np.ascontiguousarray(frame)


def bytes_of(pixels: NDArray[np.float32], image: TiledImage) -> NDArray[np.float64]:
    """Normalised pixel tensors as 0..255 again."""
    mean, std = (np.asarray(values)[:, None, None] for values in (image.pixels.mean, image.pixels.std))
    return np.asarray((pixels * std + mean) * 255)


def load_golden_processors() -> dict[tuple[str, str], GoldenImage]:
    """The stored images, by the record's name and the frame's shape."""
    with np.load(GOLDEN) as arrays:
        return {
            (name, shape): GoldenImage(
                arrays[f"{name} {shape} tiles"], tuple(arrays[f"{name} {shape} tokens"].tolist())
            )
            for name in RECORDS
            for shape in SHAPES
        }


def make_golden_processors() -> dict[tuple[str, str], GoldenImage]:
    """What transformers' processors make of every frame, their text included. Needs the ``parity`` extra."""
    from PIL import Image

    tokenizer = tagging_tokenizer()
    before, after = (len(tokenizer.encode(text).ids) for text in (BEFORE, AFTER))
    made = {}
    for name, image in RECORDS.items():
        process = _processor(name, tokenizer)
        for shape in SHAPES:
            picture = Image.fromarray(np.ascontiguousarray(golden_frame(shape)[..., ::-1]))
            found = process(images=[picture], text=[f"{BEFORE}{IMAGE}{AFTER}"])
            pixels = np.asarray(found["pixel_values"], np.float32).reshape(-1, 3, SIDE, SIDE)
            tokens = found["input_ids"][0][before : 1 - after]  # both texts begin with <s>
            made[name, shape] = GoldenImage(np.rint(bytes_of(pixels, image)).astype(np.uint8), tuple(tokens))
    return made


def _processor(name: str, tokenizer: Tokenizer) -> Any:
    """The processor of a record; its class would also have a video processor, which needs torchvision."""
    from transformers import PreTrainedTokenizerFast
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.internvl import processing_internvl
    from transformers.models.smolvlm import processing_smolvlm
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    class Untyped:
        def check_argument_for_proper_class(self, name: str, argument: object) -> None:
            pass

    class SmolVLM(Untyped, processing_smolvlm.SmolVLMProcessor):  # type: ignore[misc]
        pass

    class InternVL(Untyped, processing_internvl.InternVLProcessor):  # type: ignore[misc]
        pass

    special = {"image_token": IMAGE, "context_image_token": IMAGE, "video_token": "<video>"}
    special |= {"start_image_token": "<img>", "end_image_token": "</img>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=special)
    per_tile = TILE_TOKENS[0] * TILE_TOKENS[1]
    if name.startswith("internvl"):
        most = max(rows * columns for rows, columns in RECORDS[name].grids)
        size = {"height": SIDE, "width": SIDE}
        images = GotOcr2ImageProcessorPil(size=size, max_patches=most, image_mean=MEAN, image_std=STD)
        return InternVL(images, wrapped, None, image_seq_length=per_tile)
    processing_smolvlm.num2words = str  # for videos, and asked for at once
    splits = len(RECORDS[name].grids) > 1
    images = SmolVLMImageProcessorPil(
        size={"longest_edge": EDGE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=splits
    )
    return SmolVLM(images, wrapped, None, image_seq_len=per_tile)


def main() -> None:
    """Write the arrays."""
    arrays: dict[str, NDArray[Any]] = {}
    for (name, shape), image in make_golden_processors().items():
        arrays[f"{name} {shape} tiles"], arrays[f"{name} {shape} tokens"] = image.tiles, np.array(image.tokens)
    np.savez_compressed(GOLDEN, **arrays)
    print(f"processors: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
