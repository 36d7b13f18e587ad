"""Encoding an image: pixel tensors through vision encoder and connector, into the rows of the prompt where it
stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_runtime import progress
from edge_runtime.backends.base import Array, Backend, Engine, Run
from edge_runtime.bundle.manifest import Manifest, SingleImage, TensorSpec, embedding_rows
from edge_runtime.language.decoder import Decoder
from edge_runtime.vision.image_processors import ImageLayout
from edge_runtime.vision.resampling import Float32


@dataclass(frozen=True)
class _Bound:
    """Memory of the pixel tensors, and a call for each that encodes it."""

    pixels: Array  # (N, 3, H, W)
    runs: tuple[Run, ...]
    embeddings: Array  # (N, P, D), of all tensors


class ImageEncoder:
    """The image of one frame at a time.

    One tensor whose rows are the image's is written where the decoder reads it. Rows of several are gathered, in the
    order that a layout gives, and so are those of a tensor of which not all rows are wanted.
    """

    def __init__(
        self, backend: Backend, manifest: Manifest, vision: Engine, connector: Engine, decoder: Decoder
    ) -> None:
        self._backend = backend
        self._decoder = decoder
        self._is_gathered = not isinstance(manifest.image, SingleImage)
        self._bound = _bind(backend, manifest, vision, connector, None if self._is_gathered else decoder)
        self._layout: ImageLayout | None = None

    def encode(self, pixels: Float32, layout: ImageLayout) -> bool:
        """Write the rows of ``pixels`` (N, 3, H, W), laid out as ``layout_of`` said, where the decoder reads them.

        Returns whether they were there already, and are known to the decoder.
        """
        mine = self._bound.pixels[: len(pixels)]
        if self._decoder.holds_image and self._layout is layout and np.array_equal(pixels, mine):
            return True
        self._decoder.forget()
        self._layout = layout
        mine[...] = pixels
        progress.begin("encoding the image", len(pixels))
        for run in self._bound.runs[: len(pixels)]:
            run()
            progress.advance(1)
        self._backend.synchronize()
        if layout.gather is not None:
            rows = self._bound.embeddings.reshape(-1, self._bound.embeddings.shape[-1])
            layout.pack(rows, self._decoder.embedding.rows, self._decoder.image_rows(layout.tokens)[0])
        return False


def _bind(backend: Backend, manifest: Manifest, vision: Engine, connector: Engine, decoder: Decoder | None) -> _Bound:
    """Bind both engines to memory for the most tensors of an image; to the ``decoder``'s own rows where there is
    one."""
    encoder, image = manifest.component("vision_encoder"), manifest.image
    count = image.max_tensors
    pixels = backend.shared((count, 3, image.pixels.height, image.pixels.width), encoder.inputs[0].dtype)
    features = backend.private(*_size(encoder.outputs[0]))  # (1, P, Dv), of one tensor at a time
    if decoder is not None:
        embeddings = decoder.image_rows(image.max_tokens)
    else:
        [spec] = [spec for spec in manifest.component("connector").outputs if spec.name == "image_embeddings"]
        embeddings = backend.shared((count, embedding_rows(image), manifest.model.hidden_size), spec.dtype)
    runs = [
        backend.record(
            [
                vision.bind({"pixel_values": pixels[i : i + 1]}, {"features": features}),
                connector.bind({"features": features}, {"image_embeddings": embeddings[i : i + 1]}),
            ]
        )
        for i in range(count)
    ]
    return _Bound(pixels, tuple(runs), embeddings)


def _size(spec: TensorSpec) -> tuple[list[int], str]:
    return [size for size in spec.shape if isinstance(size, int)], spec.dtype
