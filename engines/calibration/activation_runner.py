"""Calibration images on their way through a model, one component at a time; chooses no range.

What passes between two components lies in a file, so that memory holds one component and one image. The decoder reads
what it reads in flight: the prompt's rows with the image's rows between, which the real connector made, then the
beginning of an answer; and behind the first group of layers, whatever the groups before made of that. The cache is
empty, as if all of it were one prefill.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from onnx import ValueInfoProto
from tqdm import tqdm

from edge_runtime.bundle.manifest import DEEPSTACK, ImageSpec, NativeImage, PositionSpec, SingleImage
from edge_runtime.errors import CalibrationError
from edge_runtime.language.embedding import Embedding
from edge_runtime.language.positions import ROTARY_INPUTS, position_tables
from edge_runtime.language.tokenizer import PromptTokens
from edge_runtime.vision.image_processors import ImageLayout, layout_of, pixels_from_frame
from engines.calibration.images import CalibrationImages
from engines.calibration.observe import Observation, open_observed
from engines.calibration.samples import Rows, Samples, shape_at
from engines.onnx.float32 import float32_twin
from engines.onnx.tensors import load_graph, sha256_of_graph

# What a component writes, and what the next one calls it. Heads of the model write neither.
_NEXT: Mapping[str, str] = {
    "features": "features",
    "image_embeddings": "hidden_states",
    "hidden_states_out": "hidden_states",
}


@contextmanager
def open_runner(
    images: CalibrationImages,
    image: ImageSpec,
    positions: PositionSpec,
    prompt: PromptTokens,
    embedding: Embedding,
    answers: Sequence[Sequence[int]] = ((),),
    directory: Path | None = None,
) -> Iterator[ActivationRunner]:
    """A runner whose files lie in a temporary folder below ``directory`` (None: the system's).

    They take twice what passes between two components: with 512 images, about 15 GB for LLaVA-1.5 13B. ``answers``
    are token ids to follow the prompt, all equally many, given to the images by turns; see ``answers.py``.
    """
    with tempfile.TemporaryDirectory(prefix="calibration-", dir=directory) as folder:
        yield ActivationRunner(images, image, positions, prompt, embedding, answers, Path(folder))


class ActivationRunner:
    """Where the images are: before the vision encoder at first, and a component further with every call."""

    def __init__(
        self,
        images: CalibrationImages,
        image: ImageSpec,
        positions: PositionSpec,
        prompt: PromptTokens,
        embedding: Embedding,
        answers: Sequence[Sequence[int]],
        folder: Path,
    ) -> None:
        self._images = images
        self._image = image
        self._layout = layout_of(image, *_frame_size(image))
        texts = [prompt.before_image, *((*prompt.after_image, *answer) for answer in answers)]
        rows = embedding.rows([token for text in texts for token in text])  # at once: a table is read whole for it
        edges = np.cumsum([len(text) for text in texts[:-1]])
        self._before, *self._after = np.split(rows, edges)  # (T, D) each
        self._embedding = embedding
        self._folder = folder
        self._rows: Rows | None = None  # what the component up next reads; None: pixels, which are not made yet
        self._skipped: list[Path] = []
        self._tensors: list[NDArray[Any]] = []  # embeddings of an image of which tensors are still to come
        self._joining: dict[str, Rows] = {}  # what the vision encoder made of the images for layers of the decoder
        self._steps = 0
        is_native = isinstance(image, NativeImage)
        self._tokens = image.max_tensors if is_native else 0  # that the component up next reads at once
        self._first_patch = _first_patch(image, self._layout) if isinstance(image, NativeImage) else 0
        length = len(self._before) + self._layout.tokens + len(self._after[0])
        tables = position_tables(positions, length, len(self._before), self._layout.grid)
        self._tables = dict(zip(ROTARY_INPUTS, tables, strict=True))
        self._data = hashlib.sha256(
            json.dumps([images.sha256, asdict(image), asdict(positions), asdict(prompt)]).encode()
        )
        for rows in (self._before, *self._after):
            self._data.update(rows.tobytes())

    @property
    def data_sha256(self) -> str:
        """A hash of all that reaches the component up next: images, how they are fitted, prompt, components before."""
        return self._data.hexdigest()

    def shapes(self, graph: Path) -> Mapping[str, tuple[int, ...]]:
        """Of the inputs of the component in ``graph``, which is up next: the same for all images."""
        return {value.name: shape_at(value, self._tokens) for value in load_graph(graph).graph.input}

    def samples(self, graph: Path) -> Samples:
        """What the component in ``graph`` reads, image by image; valid until the runner goes on.

        Raises:
            CalibrationError: it does not read what the component before it writes.
            SourceError: there is no image.
        """
        self._catch_up()
        return self._samples(graph)

    def through(
        self,
        graph: Path,
        histograms_of: Collection[str] = (),
        peaks_of: Collection[str] = (),
        products_of: Mapping[str, int] = MappingProxyType({}),
        channel_peaks_of: Collection[str] = (),
    ) -> Observation:
        """Run the component in ``graph`` on every image, look at tensors in it, and go behind it.

        Behind a head there is nothing: the next component may be another part of it.

        Raises:
            CalibrationError: the graph is not up next, lacks a tensor, or a tensor is not finite.
            SourceError: there is no image.
            BackendError: ONNX Runtime does not run the graph.
        """
        self._catch_up()
        observation = self._run(graph, histograms_of, peaks_of, products_of, channel_peaks_of)
        self._note(graph)
        return observation

    def look(
        self,
        graph: Path,
        histograms_of: Collection[str] = (),
        peaks_of: Collection[str] = (),
        channel_peaks_of: Collection[str] = (),
    ) -> Observation:
        """As :meth:`through`, but stay before the component."""
        self._catch_up()
        return self._run(graph, histograms_of, peaks_of, channel_peaks_of=channel_peaks_of, stay=True)

    def skip(self, graph: Path) -> None:
        """Go behind ``graph`` without running it now; it must stay there in case a later component has to be run."""
        self._skipped.append(graph)
        self._note(graph)

    def _note(self, graph: Path) -> None:
        output = _written_by(graph)
        if output is None:
            return
        self._data.update(sha256_of_graph(graph).encode())
        self._tokens = shape_at(output, self._tokens)[1]  # the last layers put out the last row alone
        if output.name == "image_embeddings":
            self._tokens = self._layout.tokens + len(self._before) + len(self._after[0])

    def _catch_up(self) -> None:
        while self._skipped:
            graph = self._skipped[0]
            if not graph.exists():
                raise CalibrationError(
                    f"{graph.name} was skipped, as its calibration cache was there, and a later one is not; "
                    "delete all of them to calibrate the whole model again"
                )
            self._run(graph)
            del self._skipped[0]

    def _run(
        self,
        graph: Path,
        histograms_of: Collection[str] = (),
        peaks_of: Collection[str] = (),
        products_of: Mapping[str, int] = MappingProxyType({}),
        channel_peaks_of: Collection[str] = (),
        *,
        stay: bool = False,
    ) -> Observation:
        samples, written = self._samples(graph), None if stay else _written_by(graph)
        output = written.name if written else None
        if output is None and not (histograms_of or peaks_of or products_of or channel_peaks_of):
            return Observation()
        following = self._new_rows(_NEXT[output]) if output else None
        with open_observed(graph, histograms_of, peaks_of, products_of, channel_peaks_of) as (engine, observation):
            progress = tqdm(samples, desc=f"observing {graph.stem}", unit="image", disable=None)
            for index, sample in enumerate(progress):
                outputs = engine.evaluate(sample)
                observation.add({**sample, **outputs})
                if following is not None:
                    self._keep_joining(outputs)
                if following is not None and output is not None:
                    self._hand_on(following, output, outputs[output], index)
        if following is not None:
            samples.rows.delete()
            self._rows = following
            for name in [value.name for value in samples.inputs if value.name in self._joining]:
                self._joining.pop(name).delete()
        return observation

    def _samples(self, graph: Path) -> Samples:
        inputs = list(float32_twin(load_graph(graph)).graph.input)
        names = {value.name for value in inputs}
        rows = self._rows = self._pixels() if self._rows is None else self._rows
        if rows.name not in names:
            raise CalibrationError(f"{graph.name} reads {', '.join(sorted(names))}, and {rows.name} are up next")
        return Samples(rows, inputs, self._tables, self._first_patch, self._joining)

    def _pixels(self) -> Rows:
        rows = self._new_rows("pixel_values")
        for frame in tqdm(self._images, desc=f"reading {self._images.name}", unit="image", disable=None):
            if not isinstance(self._image, SingleImage):  # all in one grid, as engines are calibrated at one shape
                frame = np.asarray(
                    cv2.resize(frame, self._layout.frame_size[::-1], interpolation=cv2.INTER_AREA), np.uint8
                )
            for tensor in pixels_from_frame(frame, self._image):
                rows.append(tensor[None])
        return rows

    def _hand_on(self, following: Rows, output: str, rows: NDArray[Any], index: int) -> None:
        """What one run put out, to the next component; an image's rows once they are all there, between the text's."""
        if output != "image_embeddings":
            following.append(rows)
            return
        self._tensors.append(rows[0])
        if len(self._tensors) < len(self._layout.sources):
            return
        packed = np.concatenate(self._tensors)
        if self._layout.gather is not None:
            tensors, packed = packed, np.empty((self._layout.tokens, packed.shape[1]), packed.dtype)
            self._layout.pack(tensors, self._embedding.rows, packed)
        after = self._after[index // len(self._tensors) % len(self._after)]
        following.append(np.concatenate([self._before, packed, after])[None])  # (1, T, D)
        self._tensors.clear()

    def _keep_joining(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        """What joins the image's rows behind layers, zeros where text is."""
        before, after = len(self._before), len(self._after[0])
        for name in (name for name in outputs if name.removeprefix(DEEPSTACK).isdecimal()):
            rows = self._joining.get(name) or self._joining.setdefault(name, self._new_rows(name))
            rows.append(np.pad(outputs[name], [(0, 0), (before, after), (0, 0)]))

    def _new_rows(self, name: str) -> Rows:
        self._steps += 1
        return Rows(name, self._folder / f"{self._steps}.f32")


def _first_patch(image: NativeImage, layout: ImageLayout) -> int:
    """Where the patches of the layout's grid begin among those of all grids."""
    before = image.grids[: image.grids.index(layout.grid or (0, 0))]
    return sum(rows * columns * image.merge**2 for rows, columns in before)


def _frame_size(image: ImageSpec) -> tuple[int, int]:
    """Height and width that frames have: a camera's that the bundle is for, or those of the grid of most tokens."""
    if isinstance(image, SingleImage):
        return image.pixels.height, image.pixels.width
    if isinstance(image, NativeImage):
        rows, columns = max(image.grids, key=math.prod)
        return rows * image.merge * image.pixels.height, columns * image.merge * image.pixels.width
    if image.frames:
        return image.frames[0][::-1]
    sizes = [(rows * image.pixels.height, columns * image.pixels.width) for rows, columns in image.grids]
    return max(sizes, key=lambda size: layout_of(image, *size).tokens)


def _written_by(graph: Path) -> ValueInfoProto | None:
    """The output of a component that the next one reads; None for a head."""
    return next((value for value in load_graph(graph).graph.output if value.name in _NEXT), None)
