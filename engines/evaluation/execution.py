"""A bundle's engines run on given pixels and tokens, with everything between recorded; knows no other execution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends import open_backend
from edge_runtime.backends.base import Array, Backend, Engine
from edge_runtime.bundle.manifest import Component, TensorSpec
from edge_runtime.bundle.opening import Bundle
from edge_runtime.language.decoder import Decoder
from edge_runtime.language.embedding import open_embedding
from edge_runtime.language.tokenizer import PromptTokens
from engines.evaluation.fidelity import Trace

Float32 = NDArray[np.float32]


@contextmanager
def open_bundle_tracer(bundle: Bundle, prompt: PromptTokens) -> Iterator[Callable[[Float32, Sequence[int]], Trace]]:
    """Load a bundle's engines; the result traces pixels (1, 3, H, W) through the model, led along given tokens.

    Raises:
        BackendError: an engine does not load; from the result, it does not run.
    """
    manifest = bundle.manifest
    with ExitStack() as stack:
        backend = open_backend(manifest)
        stack.callback(backend.close)

        def load(component: Component) -> Engine:
            engine = backend.load(bundle.file(component.files[0]))
            stack.callback(engine.close)
            return engine

        vision, connector = manifest.component("vision_encoder"), manifest.component("connector")
        see, connect = load(vision), load(connector)
        decoder = Decoder(
            backend,
            manifest,
            open_embedding(bundle),
            [load(group) for group in manifest.decoder_groups],
            [load(head) for head in manifest.lm_heads],
            prompt.before_image,
            capacity=manifest.model.max_positions,
        )
        pixels, features = _zeros(backend, vision.inputs[0]), _zeros(backend, vision.outputs[0])
        run_vision = see.bind({"pixel_values": pixels}, {"features": features})
        run_connector = connect.bind({"features": features}, {"image_embeddings": decoder.image_rows})

        def trace(image: Float32, tokens: Sequence[int]) -> Trace:
            pixels[...] = image
            run_vision()
            run_connector()
            logits = [decoder.prefill(prompt.after_image).copy()]
            logits += [decoder.append([token]).copy() for token in tokens[:-1]]
            seen, placed = (rows[0].astype(np.float32) for rows in (features, decoder.image_rows))
            return Trace(seen, placed, np.stack(logits), tuple(tokens))

        yield trace


def _zeros(backend: Backend, spec: TensorSpec) -> Array:
    return backend.shared([size for size in spec.shape if isinstance(size, int)], spec.dtype)
