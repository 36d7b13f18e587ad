"""Experiments, measured by several processes and kept one by one, so that a run that was stopped goes on."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from edge_runtime.errors import BuildError
from edge_runtime.interrupts import deaf_children
from engines.build import build
from engines.calibration.images import CalibrationImages
from engines.checkpoint import Checkpoint
from engines.families import read_model
from engines.fidelity import Trace
from engines.precision import load_recipe
from engines.reference.scenes import Scene
from engines.sensitivity.grid import Experiment
from engines.sensitivity.groups import WeightGroup, weight_groups
from engines.sensitivity.journal import Journal, open_journal
from engines.sensitivity.scoring import Exam, Result, examine, traces
from engines.sensitivity.tensors import TreatedCheckpoint, treated_file, write_treated
from engines.synthetic import open_checkpoint

_TARGET = "onnxruntime"  # treated weights run as float16 there, whatever an engine could do with them


@dataclass(frozen=True)
class Study:
    """What a run of experiments is about; results of two studies must not be mixed."""

    checkpoint: str  # as it is given to ``open_checkpoint``, so that every process can open it
    exam: Exam
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
        return open_journal(path, {**binding, **asdict(self.exam)})


def run_experiments(
    study: Study, experiments: Sequence[Experiment], images: CalibrationImages, journal: Journal, processes: int
) -> None:
    """Measure what ``journal`` lacks of ``experiments``, and add it there.

    Treated tensors lie beside the journal, in ``<journal>.tensors``, to be used again; they can be deleted.

    Raises:
        CheckpointError: the checkpoint is not supported.
        CalibrationError: an activation is not finite.
        BuildError: a process was killed, or the journal cannot be written; what was measured is kept.
        BackendError: an engine does not run.
    """
    missing = [experiment for experiment in experiments if experiment.key not in journal.results]
    if not missing:
        return
    folder = journal.path.with_name(f"{journal.path.name}.tensors")
    wanted = sorted({t for experiment in missing for t in experiment.treatments.values()}, key=str)
    checkpoint = open_checkpoint(study.checkpoint)
    write_treated(checkpoint, images, wanted, folder)
    with _prepared(study, checkpoint) as prepared:
        context = multiprocessing.get_context("spawn")  # ONNX Runtime's threads don't survive a fork
        pool = ProcessPoolExecutor(min(processes, len(missing)), context, _start, (study, folder, prepared))
        try:
            with deaf_children():
                running = [pool.submit(_measure, experiment) for experiment in missing]
            done = as_completed(running)
            for future in tqdm(done, desc="measuring", total=len(missing), unit="experiment", disable=None):
                journal.add(*future.result())
        except BrokenProcessPool as error:
            raise BuildError(
                "a process that measured was killed, perhaps as memory ran out; what was measured is kept: run the "
                "same command again, with fewer --processes"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _prepared(study: Study, checkpoint: Checkpoint) -> Iterator[Path]:
    """A file with the scenes, and with what the float16 model makes of them."""
    with tempfile.TemporaryDirectory(prefix="sensitivity-") as name:
        bundle = build(checkpoint, load_recipe("fp16"), _TARGET, Path(name, "float16"))
        scenes = study.exam.rendered()
        path = Path(name, "scenes.pickle")
        path.write_bytes(pickle.dumps((scenes, traces(bundle.path, scenes[: study.exam.traced]))))
        yield path


@dataclass(frozen=True)
class _Worker:
    """What a process keeps from one experiment to the next."""

    study: Study
    groups: dict[str, WeightGroup]
    tensors: Path
    scenes: list[Scene]
    reference: list[Trace]


_workers: list[_Worker] = []  # one, in a process of the pool


def _start(study: Study, tensors: Path, prepared: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    scenes, reference = pickle.loads(prepared.read_bytes())
    _workers.append(_Worker(study, {group.name: group for group in study.groups()}, tensors, scenes, reference))


def _measure(experiment: Experiment) -> tuple[str, Result]:
    [worker] = _workers
    files = {
        tensor: treated_file(worker.tensors, tensor, treatment)
        for name, treatment in experiment.treatments.items()
        for tensor in worker.groups[name].tensors
    }
    checkpoint = TreatedCheckpoint(open_checkpoint(worker.study.checkpoint), files)
    folder = Path(tempfile.mkdtemp(prefix="experiment-"))
    try:
        bundle = build(checkpoint, load_recipe("fp16"), _TARGET, folder / "bundle")
        return experiment.key, examine(bundle.path, worker.study.exam, worker.scenes, worker.reference)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
