"""Encoding an image: pixel tensors through vision encoder and connector, into the rows of the prompt where it
stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import numpy as np

from edge_runtime import progress
from edge_runtime.backends.base import Array, Backend, Engine, Memory, Run
from edge_runtime.bundle.manifest import Component, Manifest, NativeImage, SingleImage, TensorSpec, embedding_rows
from edge_runtime.language.decoder import Decoder
from edge_runtime.vision.image_processors import ImageLayout
from edge_runtime.vision.resampling import Float32

# Input i32 (N,) of a vision encoder that is built for several grids: which rows of its tables the patches have.
PATCH_ROWS = "patch_rows"


@dataclass(frozen=True)
class _Bound:
    """Memory of the pixel tensors, and a call for each that encodes it."""

    pixels: Array  # (N, 3, H, W)
    runs: tuple[Run, ...]
    embeddings: Array  # (N, P, D), of all tensors


class ImageEncoder:
    """The image of one frame at a time, and what of it joins the hidden states between decoder layers.

    One tensor whose rows are the image's is written where the decoder reads it. Rows of several are gathered, in the
    order that a layout gives, and so are those of a tensor of which not all rows are wanted.
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        vision: Engine,
        connector: Engine,
        decoder: Decoder,
        *,
        shows_features: bool = False,
    ) -> None:
        """``shows_features`` puts those of an image of its own shape where Python can read them."""
        self._backend = backend
        self._decoder = decoder
        self._bound_to_grid: Callable[[tuple[int, int]], tuple[Array, tuple[Run, ...]]] | None = None
        if isinstance(manifest.image, NativeImage):
            place = backend.shared if shows_features else backend.private
            spec = _output(manifest.component("vision_encoder"), "features")
            self.features: Memory = place((1, manifest.image.max_tensors, int(spec.shape[-1])), spec.dtype)
            self._bound_to_grid = _bind_grids(backend, manifest, vision, connector, decoder, self.features)
        else:
            is_gathered = not isinstance(manifest.image, SingleImage)
            self._bound = _bind(backend, manifest, vision, connector, None if is_gathered else decoder)
        self._layout: ImageLayout | None = None

    def encode(self, pixels: Float32, layout: ImageLayout) -> bool:
        """Write the rows of ``pixels`` (N, 3, H, W), laid out as ``layout_of`` said, where the decoder reads them.

        Returns whether they were there already, and are known to the decoder.
        """
        mine, runs = self._bound_to(layout)
        if self._decoder.holds_image and self._layout is layout and np.array_equal(pixels, mine):
            return True
        self._decoder.forget()
        self._decoder.place_image(layout.grid)
        self._layout = layout
        mine[...] = pixels
        progress.begin("encoding the image", len(runs))
        for run in runs:
            run()
            progress.advance(1)
        self._backend.synchronize()
        if layout.gather is not None:
            rows = self._bound.embeddings.reshape(-1, self._bound.embeddings.shape[-1])
            layout.pack(rows, self._decoder.embedding.rows, self._decoder.image_rows(layout.tokens)[0])
        return False

    def _bound_to(self, layout: ImageLayout) -> tuple[Array, tuple[Run, ...]]:
        """Memory of the layout's pixel tensors, and what encodes them."""
        if self._bound_to_grid is not None:
            assert layout.grid is not None
            return self._bound_to_grid(layout.grid)
        count = len(layout.sources)
        return self._bound.pixels[:count], self._bound.runs[:count]


def _bind_grids(
    backend: Backend, manifest: Manifest, vision: Engine, connector: Engine, decoder: Decoder, features: Memory
) -> Callable[[tuple[int, int]], tuple[Array, tuple[Run, ...]]]:
    """Memory for the largest grid, and for each grid the part that it takes with a run that encodes it."""
    encoder, image = manifest.component("vision_encoder"), manifest.image
    assert isinstance(image, NativeImage)
    pixels = backend.shared((1, image.max_tensors, image.patch_numbers), encoder.inputs[0].dtype)
    counts = [rows * columns * image.merge**2 for rows, columns in image.grids]
    firsts = dict(zip(image.grids, [0, *accumulate(counts)], strict=False))
    is_any = any(spec.name == PATCH_ROWS for spec in encoder.inputs)
    patch_rows = backend.shared((sum(counts) if is_any else 0,), np.int32)
    patch_rows[...] = np.arange(len(patch_rows))

    @cache
    def bound_to(grid: tuple[int, int]) -> tuple[Array, tuple[Run, ...]]:
        first, tokens = firsts[grid], grid[0] * grid[1]
        count = tokens * image.merge**2
        mine, through = pixels[:, :count], features[:, :count]
        rows = {PATCH_ROWS: patch_rows[first : first + count]} if is_any else {}
        see = vision.bind({"pixel_values": mine, **rows}, {"features": through, **decoder.joining_rows(tokens)})
        merge = connector.bind({"features": through}, {"image_embeddings": decoder.image_rows(tokens)})
        return mine, (backend.record([see, merge]),)

    return bound_to


def _bind(backend: Backend, manifest: Manifest, vision: Engine, connector: Engine, decoder: Decoder | None) -> _Bound:
    """Bind both engines to memory for the most tensors of an image; to the ``decoder``'s own rows where there is
    one."""
    encoder, image = manifest.component("vision_encoder"), manifest.image
    assert not isinstance(image, NativeImage)
    count = image.max_tensors
    pixels = backend.shared((count, 3, image.pixels.height, image.pixels.width), encoder.inputs[0].dtype)
    features = backend.private(*_size(encoder.outputs[0]))  # (1, P, Dv), of one tensor at a time
    if decoder is not None:
        embeddings = decoder.image_rows(image.max_tokens)
    else:
        spec = _output(manifest.component("connector"), "image_embeddings")
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


def _output(component: Component, name: str) -> TensorSpec:
    [spec] = [spec for spec in component.outputs if spec.name == name]
    return spec


def _size(spec: TensorSpec) -> tuple[list[int], str]:
    return [size for size in spec.shape if isinstance(size, int)], spec.dtype
