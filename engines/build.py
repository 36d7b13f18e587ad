"""From a checkpoint to a bundle, component by component, so that an interrupted build goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edge_runtime.bundle.manifest import MANIFEST_NAME, Component, ImageSpec, NativeImage, manifest_to_json
from edge_runtime.bundle.opening import Bundle, load_bundle, sha256_of_file
from edge_runtime.bundle.report_schema import SCHEMA_NAME, warn_of_own_prompt
from edge_runtime.cli.exit_codes import NO_ROOM
from edge_runtime.errors import BuildError, CheckpointError, EdgeRuntimeError
from edge_runtime.memory.plan import check_fits, format_bytes
from edge_runtime.reports.schema import BRIDGE, ReportSchema
from edge_runtime.typed_json import MismatchError, dataclass_from_json
from engines.calibration.images import DEFAULT_IMAGES, CalibrationImages, open_images, warn_where_few
from engines.calibration.model import open_model_runner
from engines.calibration.rounding import open_calibrated
from engines.checkpoint import Checkpoint
from engines.families import DEFAULT_GROUP_PARAMETERS
from engines.families.base import AS_SUGGESTED, ImageOptions, Part
from engines.layers.native_tower import Grids
from engines.layers.weights import TensorSource
from engines.onnx.builder import HashedFile
from engines.planning.plan import BundlePlan, plan_bundle, prompt_of
from engines.planning.progress import open_progress
from engines.quantize.recipe import PrecisionPlan
from engines.targets import TARGETS
from engines.targets.base import Calibration, TargetOptions
from engines.targets.trial import try_engines

_log = logging.getLogger(__name__)

_JOURNAL_NAME = "journal.json"
_OPENING_TOKENS = 64  # of the answer, that are the same in every answer and so run with the prompt


def build(
    checkpoint: Checkpoint,
    precisions: PrecisionPlan,
    target: str,
    out: Path,
    *,
    budget_bytes: int | None = None,
    context: int | None = None,
    group_parameters: int = DEFAULT_GROUP_PARAMETERS,
    image: ImageOptions = AS_SUGGESTED,
    compute_capabilities: tuple[str, ...] | None = None,
    timing_cache: Path | None = None,
    images: CalibrationImages | None = None,
    calibration_cache: Path | None = None,
    int8_route: str | None = None,
    schema: ReportSchema = BRIDGE,
    force: bool = False,
) -> Bundle:
    """Write the bundle ``out``, replacing one that is there only where ``force`` says so.

    Everything is written to ``<out>.partial`` first, which no other build may write to meanwhile. Where that already
    holds components of the same build, they are checked and kept; those of another build go only where ``force`` says
    so. ``compute_capabilities`` ("8.6") are the GPUs that a compiler which can aim at others builds
    for; ``timing_cache`` is where one that measures keeps what it measured. Recipes that look at activations look at
    those of ``images``, or else of the default ones; where ``images`` are given, engines that compute in float16 are
    also kept from overflowing on them. ``calibration_cache`` keeps INT8 ranges, to be calibrated on another machine
    than the one that builds; ``int8_route`` is "implicit" or "explicit", where TensorRT offers both. ``schema`` is
    what the bundle reports on. Progress goes to stderr.

    Raises:
        SchemaError: no finding of the schema fits into the context.
        RecipeError: there is no such target; ``context`` leaves no room for an answer, or is more than the model has.
        CheckpointError: the checkpoint cannot be read, or is not supported.
        CalibrationError: activations are not finite, or nothing but zeros; a cache holds for something else.
        SourceError: there is no image to calibrate on.
        MissingDependencyError: the target's compiler is not installed.
        BackendError: the target's compiler refuses a graph.
        BudgetExceededError: the plan exceeds ``budget_bytes``; nothing has been written.
        BuildError: ``out`` exists, or cannot be written; an engine does not run on this machine, though it is for it;
            finished components are kept for a resume.
    """
    plan = plan_bundle(checkpoint, precisions, target, context, group_parameters, image, schema)
    precisions = plan.precisions
    for note in plan.notes:
        _log.warning("%s", note)
    if plan.model.only_planned:
        raise CheckpointError(f"{checkpoint.name} can be planned, and not built: {plan.model.only_planned}")
    if schema != BRIDGE and plan.model.asked.instruction is None:
        warn_of_own_prompt(checkpoint.name, schema)
    memory_plan = plan.memory_plan if budget_bytes is None else check_fits(plan.memory_plan, budget_bytes)
    runners = precisions.has_int8 or images is not None
    if images is None and (precisions.has_int8 or precisions.is_calibrated):
        images = open_images(DEFAULT_IMAGES)
    if images and precisions.has_int8:
        warn_where_few(images)
    hashes = replace(
        plan.manifest.hashes, checkpoint=checkpoint.sha256(), calibration=images.sha256 if images else None
    )
    options = TargetOptions(
        plan.context_tokens,
        _longest_step(plan, checkpoint),
        compute_capabilities,
        timing_cache,
        precisions.has_int8,
        int8_route,
        precisions.kv_cache,
        _patches_of(plan.model.image),
    )
    compiler = TARGETS[target].open(options)
    versions = {**_versions(), **compiler.versions}
    out = out.absolute()
    try:
        _check_replaceable(out, force)
        partial = out.with_name(out.name + ".partial")
        components = []
        said = {"target": target, "recipe": precisions.sha256, "image": asdict(plan.model.image)}
        if schema != BRIDGE:  # components are calibrated with its prompt
            said["report schema"] = schema.document()
        # A new kernel writes the same components, so that the machine is named alone.
        key = json.loads(json.dumps({**said, **asdict(hashes), **versions, "platform": platform.machine()}))
        with _open_journal(partial, key, {"recipe name": precisions.recipe}, force) as journal:
            with ExitStack() as stack:
                source: TensorSource = checkpoint
                calibration = None
                if images and precisions.is_calibrated:
                    source = stack.enter_context(
                        open_calibrated(checkpoint, precisions, images, partial, plan.model.image, schema)
                    )
                if images and runners:
                    runner = stack.enter_context(open_model_runner(checkpoint, plan.model, images, partial))
                    calibration = Calibration(runner, calibration_cache or partial / "calibration")
                progress = stack.enter_context(
                    open_progress(f"building {out.name}", plan.disk_bytes, lambda name: _bytes_of(partial, name))
                )
                for part in plan.parts:
                    progress.begin(part.name)
                    component = journal.finished(part)
                    if component is None:
                        precision = precisions.components[part.role]
                        component = compiler.write_component(partial, part, source, precision, calibration)
                        journal.add(component)
                        progress.advance(component.size_bytes)
                    else:
                        progress.leave_out(component.size_bytes)
                        if calibration and part.emit:
                            calibration.runner.skip(compiler.graph_of(partial, part))
                    components.append(component)
            tokenizer = HashedFile(partial / "tokenizer.json")
            tokenizer.write(checkpoint.tokenizer_json)
            report_schema = HashedFile(partial / SCHEMA_NAME)
            report_schema.write(plan.model.asked.to_json().encode())
            manifest = replace(
                plan.manifest,
                components=tuple(components),
                tokenizer=tokenizer.close(),
                report_schema=report_schema.close(),
                memory_plan={item.name: item.planned_bytes for item in memory_plan.items},
                build={**versions, "time": datetime.now(timezone.utc).isoformat(timespec="seconds")},
                hashes=hashes,
            )
            (partial / MANIFEST_NAME).write_text(manifest_to_json(manifest), encoding="utf-8")
            try_engines(load_bundle(partial, target=target, verify_hashes=True))
            _remove_all_but(partial, {MANIFEST_NAME, _JOURNAL_NAME, *(entry.path for entry in manifest.files)})
            _move_into_place(partial, out)
            (out / _JOURNAL_NAME).unlink()
    except EdgeRuntimeError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise BuildError(_why_not_written(error, out, plan.disk_bytes)) from error
    return Bundle(out, manifest)


def _bytes_of(partial: Path, component: str) -> int:
    """What is there of a component's files."""
    return sum(path.stat().st_size for path in partial.glob(f"{component}.*") if path.is_file())


def _patches_of(image: ImageSpec) -> tuple[int, ...]:
    """Patches of each grid that a vision encoder of pictures of their own shape is built for; none of others."""
    return Grids(image.grids, image.merge).patches if isinstance(image, NativeImage) else ()


def _longest_step(plan: BundlePlan, checkpoint: Checkpoint) -> int:
    """Tokens of the longest step that a runtime makes: the image and the text behind it, or the text before it."""
    prompt = prompt_of(checkpoint, plan.model)
    behind = plan.manifest.image.max_tokens + len(prompt.after_image) + _OPENING_TOKENS
    return min(max(len(prompt.before_image), behind), plan.context_tokens)


@dataclass(frozen=True)
class _Journal:
    """Which components of a partial bundle are whole, and of which build they are."""

    path: Path
    key: Mapping[str, Any]
    names: Mapping[str, str]  # what a person calls it
    components: dict[str, Component]

    def finished(self, part: Part) -> Component | None:
        """The component if all of its files are there, unaltered."""
        component = self.components.get(part.name)
        if component is None or component.layers != part.layers:
            return None
        for entry in component.files:
            file = self.path.with_name(entry.path)
            if not file.is_file() or sha256_of_file(file) != entry.sha256:
                return None
        return component

    def add(self, component: Component) -> None:
        """Note that a component is whole."""
        self.components[component.name] = component
        self.save()

    def save(self) -> None:
        """Write the journal in one step, so that it is never half there."""
        document = {"key": self.key, "names": self.names, "components": [asdict(c) for c in self.components.values()]}
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(document), encoding="utf-8")
        os.replace(temporary, self.path)


@contextmanager
def _open_journal(partial: Path, key: Mapping[str, Any], names: Mapping[str, str], force: bool) -> Iterator[_Journal]:
    """The journal of an interrupted build with the same key; or an empty directory and a new journal.

    While it is open, ``partial`` is this build's alone. ``names`` says what a person would call the build.

    Raises:
        BuildError: another build is at work there, or has finished components there that ``force`` does not give up.
    """
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
        path = partial / _JOURNAL_NAME
        document = _read_journal(path)
        if document is None and not path.exists() and any(partial.iterdir()):
            raise BuildError(f"{partial} exists and is no interrupted build; move it away, or choose another --out")
        if document is None and path.exists():
            _log.warning("%s cannot be read: what lies beside it is removed, and the build begins anew", path)
        found = document or {"key": {}, "components": {}, "names": {}}
        journal = _Journal(path, key, names, found["components"] if found["key"] == key else {})
        if found["key"] != key:
            if found["components"]:
                _give_up(partial, found, journal, force)
            _empty(partial)
            journal.save()
        yield journal


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other builds out of a directory, also while it is renamed; where a file system has no locks, do without."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildError(f"another build is writing {directory}; wait for it, or choose another --out") from error
        except OSError as error:
            _log.warning("%s cannot be locked (%s): see that no other build writes there", directory, error)
        if not directory.exists() or not os.path.samestat(os.stat(directory), os.fstat(descriptor)):
            raise BuildError(f"another build has just finished {directory}; look at it, or run the command again")
        yield
    finally:
        os.close(descriptor)


def _read_journal(path: Path) -> dict[str, Any] | None:
    """What a journal says, its components by name; None where it is none of ours."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        components = [dataclass_from_json(item, Component) for item in document["components"]]
        key, names = dict(document["key"]), dict(document.get("names", {}))
        return {"key": key, "names": names, "components": {each.name: each for each in components}}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, MismatchError):
        return None


def _give_up(partial: Path, found: Mapping[str, Any], journal: _Journal, force: bool) -> None:
    """Say which components of another build are in the way, and why they are another's."""
    theirs, ours = {**found["names"], **found["key"]}, {**journal.names, **journal.key}
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    reasons = ", ".join(f"{name} {theirs.get(name)!s:.20} and not {ours.get(name)!s:.20}" for name in differing)
    count = len(found["components"])
    if not force:
        raise BuildError(
            f"{partial} holds {count} finished components of another build ({reasons}); go on with that one by its own "
            "command, choose another --out, or give them up with --force"
        )
    _log.warning("%d finished components of another build in %s are removed (%s)", count, partial, reasons)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _check_replaceable(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise BuildError(f"{out} exists; choose another --out, or replace it with --force")
    if out.exists() and not (out / MANIFEST_NAME).is_file():
        raise BuildError(f"{out} exists and is no bundle, so --force won't replace it; choose another --out")


def _remove_all_but(partial: Path, names: Collection[str]) -> None:
    """Remove what only building needed."""
    for path in partial.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _move_into_place(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    old = out.with_name(out.name + ".old")
    if (old / MANIFEST_NAME).is_file():  # an earlier replacement was killed between the lines below
        shutil.rmtree(old)
    out.rename(old)
    partial.rename(out)
    shutil.rmtree(old)


def _why_not_written(error: OSError | ValueError, out: Path, disk_bytes: int) -> str:
    advice = "finished components are kept: run the same command again to go on"
    if not isinstance(error, OSError) or error.errno not in NO_ROOM:
        return f"cannot write {out}: {error}; {advice}"
    free_bytes = shutil.disk_usage(next(parent for parent in out.parents if parent.exists())).free
    return (
        f"no room to write {out} ({error.strerror}): the bundle takes about {format_bytes(disk_bytes)}, and "
        f"{format_bytes(free_bytes)} are free there; make room; {advice}"
    )


def _versions() -> dict[str, str]:
    libraries = {"numpy": np.__version__, "onnx": onnx.__version__}
    return {"python": platform.python_version(), "platform": platform.platform(), **libraries}
