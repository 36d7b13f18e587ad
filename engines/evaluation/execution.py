"""A bundle's engines run on given pixels and tokens, with everything between recorded; knows no other execution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime import progress
from edge_runtime.backends import open_backend
from edge_runtime.backends.base import Engine
from edge_runtime.bundle.manifest import Component, NativeImage
from edge_runtime.bundle.opening import Bundle
from edge_runtime.language.decoder import Decoder
from edge_runtime.language.embedding import open_embedding
from edge_runtime.language.tokenizer import PromptTokens
from edge_runtime.vision.image_encoder import ImageEncoder
from edge_runtime.vision.image_processors import ImageLayout, layout_of
from engines.evaluation.fidelity import Trace

Float32 = NDArray[np.float32]


_CAPACITY = 4096  # rows of the cache, where a model has as many positions: newer ones have hundreds of thousands
_ANSWER_TOKENS = 1024


class BundleTracer(Protocol):
    """Traces pixel tensors (N, 3, H, W) through a bundle, led along tokens; ``layout`` is that of their frame."""

    def __call__(self, tensors: Float32, tokens: Sequence[int], layout: ImageLayout | None = None) -> Trace:
        """What the bundle made of them."""


@contextmanager
def open_bundle_tracer(bundle: Bundle, prompt: PromptTokens) -> Iterator[BundleTracer]:
    """Load a bundle's engines; the result traces pixels (N, 3, H, W) through the model, led along given tokens.

    It is also told the layout of a frame that takes several tensors.

    Raises:
        BackendError: an engine does not load; from the result, it does not run.
    """
    manifest = bundle.manifest
    with ExitStack() as stack:
        backend = open_backend(manifest)
        stack.callback(backend.close)

        progress.begin(
            "loading its engines", sum(file.size_bytes for part in manifest.components for file in part.files)
        )

        def load(component: Component) -> Engine:
            engine = backend.load(bundle.file(component.files[0]))
            stack.callback(engine.close)
            progress.advance(sum(file.size_bytes for file in component.files))
            return engine

        vision, connector = load(manifest.component("vision_encoder")), load(manifest.component("connector"))
        prompt_rows = len(prompt.before_image) + manifest.image.max_tokens + len(prompt.after_image)
        decoder = Decoder(
            backend,
            manifest,
            open_embedding(bundle),
            [load(group) for group in manifest.decoder_groups],
            [load(head) for head in manifest.lm_heads],
            prompt.before_image,
            capacity=min(manifest.model.max_positions, max(prompt_rows + _ANSWER_TOKENS, _CAPACITY)),
        )
        images = ImageEncoder(backend, manifest, vision, connector, decoder, shows_features=True)

        def follow(features: Float32, tokens: Sequence[int], layout: ImageLayout) -> Trace:
            placed = decoder.image_rows(layout.tokens)[0].astype(np.float32)
            logits = [decoder.prefill(prompt.after_image, layout.tokens).copy()]
            logits += [decoder.append([token]).copy() for token in tokens[:-1]]
            return Trace(features, placed, np.stack(logits), tuple(tokens))

        def trace_native(tensors: Float32, tokens: Sequence[int], layout: ImageLayout | None = None) -> Trace:
            assert layout is not None, "patches do not say in which rows they lie"
            images.encode(tensors, layout)
            return follow(np.asarray(images.features[0, : tensors.shape[1]]).astype(np.float32), tokens, layout)

        if isinstance(manifest.image, NativeImage):
            yield trace_native
            return
        encoder = manifest.component("vision_encoder")
        sizes = [size for size in encoder.outputs[0].shape if isinstance(size, int)]
        size = manifest.image.pixels
        pixels = backend.shared((1, 3, size.height, size.width), encoder.inputs[0].dtype)
        features = backend.shared(sizes, encoder.outputs[0].dtype)
        see = vision.bind({"pixel_values": pixels}, {"features": features})

        def features_of(tensor: Float32) -> Float32:
            pixels[...] = tensor
            see()
            backend.synchronize()
            rows: Float32 = features[0].astype(np.float32)
            return rows

        def trace(tensors: Float32, tokens: Sequence[int], layout: ImageLayout | None = None) -> Trace:
            layout = layout or layout_of(manifest.image, *tensors.shape[-2:])
            seen = np.concatenate([features_of(tensor) for tensor in tensors])
            images.encode(tensors, layout)
            return follow(seen, tokens, layout)

        yield trace
