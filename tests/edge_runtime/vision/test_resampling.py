"""Frames become the tensors that a Hugging Face image processor would make of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_runtime.bundle.manifest import PixelSpec, SingleImage
from edge_runtime.errors import FrameError
from edge_runtime.vision.image_processors import pixels_from_frame
from edge_runtime.vision.resampling import check_frame

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


FILL = (122, 116, 104)


def spec(side: int = 56, fit: str = "squeeze", resample: int = 3) -> SingleImage:
    edge = side if fit == "crop" else None
    return SingleImage("single", PixelSpec(side, side, resample, 1 / 255, MEAN, STD), fit, edge, FILL, 16)


def scene(height: int, width: int) -> np.ndarray:
    """A frame of hard edges, fine lines and noise: what resampling gets wrong."""
    random = np.random.default_rng(height * 10007 + width)
    frame = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame[: height // 2] = cv2.GaussianBlur(frame, (0, 0), 2)[: height // 2]
    frame[height // 3 :: 7] = 255
    frame[:, :: max(width // 5, 1)] = 0
    return frame


def pillow_bytes(frame: np.ndarray, wanted: SingleImage) -> np.ndarray:
    """What CLIPImageProcessor does before it normalises, in Pillow: uint8 (3, H, W)."""
    image = Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
    pixels = wanted.pixels
    if wanted.fit == "letterbox":  # as LLaVA's own expand2square
        side = max(image.size)
        square = Image.new("RGB", (side, side), FILL)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if wanted.fit == "crop":
        edge, (width, height) = wanted.shortest_edge, image.size
        size = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
        image = image.resize(size, pixels.resample)
        left, top = (size[0] - pixels.width) // 2, (size[1] - pixels.height) // 2
        image = image.crop((left, top, left + pixels.width, top + pixels.height))
    else:
        image = image.resize((pixels.width, pixels.height), pixels.resample)
    return np.asarray(image).transpose(2, 0, 1)


def bytes_of(pixels: np.ndarray) -> np.ndarray:
    return (pixels[0] * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]) * 255


@pytest.mark.parametrize("resample", [1, 2, 3], ids=["lanczos", "bilinear", "bicubic"])
@pytest.mark.parametrize("fit", ["squeeze", "crop", "letterbox"])
@pytest.mark.parametrize(
    ("height", "width"),
    [(480, 640), (640, 480), (300, 301), (56, 56), (56, 200), (17, 23), (1, 1), (3, 900), (1080, 1920)],
)
def test_pixels_are_within_one_step_of_pillow(height: int, width: int, fit: str, resample: int) -> None:
    wanted = spec(fit=fit, resample=resample)
    frame = scene(height, width)
    pixels = pixels_from_frame(frame, wanted)
    assert pixels.shape == (1, 3, 56, 56)
    assert pixels.dtype == np.float32
    assert np.abs(bytes_of(pixels) - pillow_bytes(frame, wanted)).max() < 1.01


def test_hardly_any_pixel_differs_from_pillow_at_all() -> None:
    frame = scene(480, 640)
    differs = np.abs(bytes_of(pixels_from_frame(frame, spec(224))) - pillow_bytes(frame, spec(224))) > 0.01
    assert differs.mean() < 0.001


def test_an_8k_frame_is_resized() -> None:
    frame = np.full((4320, 7680, 3), (10, 20, 30), np.uint8)
    got = bytes_of(pixels_from_frame(frame, spec()))
    assert np.allclose(got, np.array([30, 20, 10])[:, None, None], atol=0.01)  # BGR in, RGB out


def test_a_one_pixel_high_panorama_costs_no_more_memory_than_its_crop() -> None:
    pixels = pixels_from_frame(scene(1, 60000), spec(fit="crop"))
    assert np.isfinite(pixels).all()


def test_a_view_with_gaps_between_its_rows_reads_the_same_as_its_copy() -> None:
    view = scene(200, 400)[::2, 10:300]
    assert np.array_equal(pixels_from_frame(view, spec()), pixels_from_frame(view.copy(), spec()))


def test_a_mirrored_view_reads_the_same_as_its_copy() -> None:
    view = scene(60, 80)[:, ::-1, ::-1]
    assert np.array_equal(pixels_from_frame(view, spec()), pixels_from_frame(view.copy(), spec()))


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (None, "NoneType"),  # what cv2.imread gives for a file that is no image
        ([[1, 2, 3]], "list"),
        (np.zeros((0, 0, 3), np.uint8), "no pixels"),
        (np.zeros((0, 640, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4), np.uint8), "cvtColor"),
        (np.zeros((4, 4, 4), np.uint8), "cvtColor"),
        (np.zeros((1, 4, 4, 3), np.uint8), "(H, W, 3)"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.full((4, 4, 3), np.nan, np.float32), "NaN"),
        (np.full((4, 4, 3), np.inf, np.float64), "infinity"),
    ],
)
def test_what_is_no_frame_is_refused_with_what_was_found(frame: object, says: str) -> None:
    with pytest.raises(FrameError) as caught:
        check_frame(frame)
    assert says in str(caught.value)
