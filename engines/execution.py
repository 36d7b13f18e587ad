"""A bundle's engines run on given pixels and tokens, with everything between recorded; knows no other execution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import open_backend
from edge_runtime.backends.base import Engine
from edge_runtime.bundle import Bundle, Component, TensorSpec
from edge_runtime.decoder import Decoder
from edge_runtime.embedding import open_embedding
from edge_runtime.tokenization import PromptTokens
from engines.fidelity import Trace

Float32 = NDArray[np.float32]


@contextmanager
def open_bundle_tracer(bundle: Bundle, prompt: PromptTokens) -> Iterator[Callable[[Float32, Sequence[int]], Trace]]:
    """Load a bundle's engines; the result traces pixels (1, 3, H, W) through the model, led along given tokens.

    Raises:
        BackendError: an engine does not load; from the result, it does not run.
    """
    manifest = bundle.manifest
    backend = open_backend(manifest.target)
    with ExitStack() as stack:

        def load(component: Component) -> Engine:
            engine = backend.load(bundle.file(component.files[0]))
            stack.callback(engine.close)
            return engine

        decoder = Decoder(
            manifest.model,
            open_embedding(bundle),
            [(load(group), range(*(group.layers or (0, 0)))) for group in manifest.decoder_groups],
            load(manifest.component("lm_head")),
            prompt.before_image,
            capacity=manifest.model.max_positions,
        )
        vision, connector = manifest.component("vision_encoder"), manifest.component("connector")
        pixels, features = _zeros(vision.inputs[0]), _zeros(vision.outputs[0])
        see = load(vision).bind({"pixel_values": pixels}, {"features": features})
        connect = load(connector).bind({"features": features}, {"image_embeddings": decoder.image_rows})

        def trace(image: Float32, tokens: Sequence[int]) -> Trace:
            pixels[...] = image
            see()
            connect()
            logits = [decoder.prefill(prompt.after_image).copy()]
            logits += [decoder.append([token]).copy() for token in tokens[:-1]]
            return Trace(features[0].copy(), decoder.image_rows[0].copy(), np.stack(logits), tuple(tokens))

        yield trace


def _zeros(spec: TensorSpec) -> Float32:
    return np.zeros([size for size in spec.shape if isinstance(size, int)], np.float32)
