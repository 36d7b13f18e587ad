"""Experiments, measured and kept one by one, so that a run that was stopped goes on."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from engines.build import build
from engines.calibration.images import CalibrationImages
from engines.checkpoint import Checkpoint
from engines.evaluation.sensitivity.executors import OpenWorker
from engines.evaluation.sensitivity.grid import Experiment
from engines.evaluation.sensitivity.groups import WeightGroup, weight_groups
from engines.evaluation.sensitivity.journal import Journal, open_journal
from engines.evaluation.sensitivity.outcomes import Result, result_of
from engines.evaluation.sensitivity.scoring import examine, hard_scenes, traces
from engines.evaluation.sensitivity.tensors import QuantizedCheckpoint, quantized_file, write_quantized
from engines.families import read_model
from engines.families.synthetic import open_checkpoint
from engines.quantize.recipe import load_recipe

_TARGET = "onnxruntime"  # quantized weights run as float16 there, whatever an engine could do with them

Execute = Callable[[OpenWorker[Experiment, tuple[str, Result]], Sequence[Experiment]], Iterator[tuple[str, Result]]]


@dataclass(frozen=True)
class Study:
    """What a run of experiments is about; results of two studies must not be mixed."""

    checkpoint: str  # as it is given to ``open_checkpoint``, so that every process can open it
    scenes: int  # that every experiment is put to
    block_groups: int

    def groups(self) -> tuple[WeightGroup, ...]:
        """The weight groups of the model."""
        return weight_groups(read_model(open_checkpoint(self.checkpoint)), self.block_groups)

    def journal(self, path: Path, images: CalibrationImages) -> Journal:
        """The journal at ``path``, bound to this study.

        Raises:
            CalibrationError: it is of another study.
        """
        checkpoint = open_checkpoint(self.checkpoint).sha256()
        binding = {"checkpoint": checkpoint, "images": images.sha256, "block_groups": self.block_groups}
        return open_journal(path, {**binding, "scenes": self.scenes, "conditions": "hard", "tokens": "choices"})


def run_experiments(
    study: Study, experiments: Sequence[Experiment], images: CalibrationImages, journal: Journal, execute: Execute
) -> None:
    """Let ``execute`` measure what ``journal`` lacks of ``experiments``, and add it there.

    Treated tensors lie beside the journal, in ``<journal>.tensors``, to be used again; they can be deleted. Workers on
    other machines read them there too.

    Raises:
        CheckpointError: the checkpoint is not supported.
        CalibrationError: an activation is not finite.
        BuildError: a worker was lost, or the journal cannot be written; what was measured is kept.
        BackendError: an engine does not run.
    """
    missing = [experiment for experiment in experiments if experiment.key not in journal.results]
    if not missing:
        return
    folder = tensors_of(journal.path).absolute()
    wanted = sorted({t for experiment in missing for t in experiment.quantizations.values()}, key=str)
    checkpoint = open_checkpoint(study.checkpoint)
    write_quantized(checkpoint, images, wanted, folder)
    _prepare(study, checkpoint, folder / _PREPARED)
    done = execute(partial(_open_worker, study, folder), missing)
    for key, result in tqdm(done, desc="measuring", total=len(missing), unit="experiment", disable=None):
        journal.add(key, result)


def tensors_of(journal: Path) -> Path:
    """Where the quantized tensors of a journal lie."""
    return journal.with_name(f"{journal.name}.tensors")


_PREPARED = "scenes.pickle"


def _prepare(study: Study, checkpoint: Checkpoint, path: Path) -> None:
    """Write the scenes, and what the float16 model makes of them."""
    scenes = hard_scenes(study.scenes)
    with tempfile.TemporaryDirectory(prefix="sensitivity-") as name:
        bundle = build(checkpoint, load_recipe("fp16"), _TARGET, Path(name, "float16"))
        path.write_bytes(pickle.dumps((scenes, traces(bundle.path, scenes))))


def _open_worker(study: Study, folder: Path) -> Callable[[Experiment], tuple[str, Result]]:
    """Measures one experiment after another; reads the checkpoint and ``folder``."""
    scenes, reference = pickle.loads((folder / _PREPARED).read_bytes())
    checkpoint, groups = open_checkpoint(study.checkpoint), study.groups()

    def measure(experiment: Experiment) -> tuple[str, Result]:
        with tempfile.TemporaryDirectory(prefix="experiment-") as scratch:
            quantized = quantized_checkpoint(checkpoint, groups, experiment, folder)
            bundle = build(quantized, load_recipe("fp16"), _TARGET, Path(scratch, "bundle"))
            return experiment.key, result_of(*examine(bundle.path, scenes, reference))

    return measure


def quantized_checkpoint(
    checkpoint: Checkpoint, groups: Sequence[WeightGroup], experiment: Experiment, folder: Path
) -> QuantizedCheckpoint:
    """The checkpoint with an experiment's tensors, which were written to ``folder``, in their places."""
    tensors = {group.name: group.tensors for group in groups}
    files = {
        tensor: quantized_file(folder, tensor, quantization)
        for name, quantization in experiment.quantizations.items()
        for tensor in tensors[name]
    }
    return QuantizedCheckpoint(checkpoint, files)
