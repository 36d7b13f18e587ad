"""From a checkpoint to a bundle, component by component, so that an interrupted build goes on where it stopped."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from edge_runtime.bundle.manifest import MANIFEST_NAME, Component, manifest_to_json
from edge_runtime.bundle.opening import Bundle, load_bundle, sha256_of_file
from edge_runtime.cli.exit_codes import NO_ROOM
from edge_runtime.errors import BuildError, CheckpointError, EdgeRuntimeError
from edge_runtime.memory.plan import check_fits, format_bytes
from edge_runtime.reports.schema import SCHEMA_NAME, schema_to_json
from edge_runtime.typed_json import MismatchError, dataclass_from_json
from engines.calibration.images import DEFAULT_IMAGES, CalibrationImages, open_images, warn_where_few
from engines.calibration.model import open_model_runner
from engines.calibration.rounding import open_calibrated
from engines.checkpoint import Checkpoint
from engines.families import DEFAULT_GROUP_PARAMETERS
from engines.families.base import AS_SUGGESTED, ImageOptions, Part
from engines.layers.weights import TensorSource
from engines.onnx.builder import HashedFile
from engines.planning.plan import BundlePlan, plan_bundle, prompt_of
from engines.quantize.recipe import PrecisionPlan
from engines.targets import TARGETS
from engines.targets.base import Calibration, TargetOptions

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
    force: bool = False,
) -> Bundle:
    """Write the bundle ``out``, replacing one that is there only where ``force`` says so.

    Everything is written to ``<out>.partial`` first. Where that already holds components of the same build, they are
    checked and kept. ``compute_capabilities`` ("8.6") are the GPUs that a compiler which can aim at others builds
    for; ``timing_cache`` is where one that measures keeps what it measured. Recipes that look at activations look at
    those of ``images``, or else of the default ones; where ``images`` are given, engines that compute in float16 are
    also kept from overflowing on them. ``calibration_cache`` keeps INT8 ranges, to be calibrated on another machine
    than the one that builds; ``int8_route`` is "implicit" or "explicit", where TensorRT offers both. Progress goes to
    stderr.

    Raises:
        RecipeError: there is no such target; ``context`` leaves no room for an answer, or is more than the model has.
        CheckpointError: the checkpoint cannot be read, or is not supported.
        CalibrationError: activations are not finite, or nothing but zeros; a cache holds for something else.
        SourceError: there is no image to calibrate on.
        MissingDependencyError: the target's compiler is not installed.
        BackendError: the target's compiler refuses a graph.
        BudgetExceededError: the plan exceeds ``budget_bytes``; nothing has been written.
        BuildError: ``out`` exists, or cannot be written; finished components are kept for a resume.
    """
    plan = plan_bundle(checkpoint, precisions, target, context, group_parameters, image)
    if plan.model.only_planned:
        raise CheckpointError(f"{checkpoint.name} can be planned, and not built: {plan.model.only_planned}")
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
    )
    compiler = TARGETS[target].open(options)
    versions = {**_versions(), **compiler.versions}
    out = out.absolute()
    try:
        _check_replaceable(out, force)
        partial = out.with_name(out.name + ".partial")
        said = {"target": target, "recipe": precisions.sha256, "image": asdict(plan.model.image)}
        journal = _open_journal(partial, json.loads(json.dumps({**said, **asdict(hashes), **versions})))
        components = []
        with ExitStack() as stack:
            source: TensorSource = checkpoint
            calibration = None
            if images and precisions.is_calibrated:
                source = stack.enter_context(open_calibrated(checkpoint, precisions, images, partial, plan.model.image))
            if images and runners:
                runner = stack.enter_context(open_model_runner(checkpoint, plan.model, images, partial))
                calibration = Calibration(runner, calibration_cache or partial / "calibration")
            to_write = plan.disk_bytes
            bar = stack.enter_context(
                tqdm(total=to_write, unit="B", unit_scale=True, desc=f"building {out.name}", disable=None)
            )
            for part in plan.parts:
                bar.set_postfix_str(part.name)
                component = journal.finished(part)
                if component is None:
                    precision = precisions.components[part.role]
                    component = compiler.write_component(partial, part, source, precision, calibration)
                    journal.add(component)
                    bar.update(component.size_bytes)
                else:
                    bar.total = to_write = to_write - component.size_bytes  # tells nothing of the others' time
                    if calibration and part.emit:
                        calibration.runner.skip(compiler.graph_of(partial, part))
                components.append(component)
        tokenizer = HashedFile(partial / "tokenizer.json")
        tokenizer.write(checkpoint.tokenizer_json)
        schema = HashedFile(partial / SCHEMA_NAME)
        schema.write(schema_to_json(plan.manifest.coordinates.steps).encode())
        manifest = replace(
            plan.manifest,
            components=tuple(components),
            tokenizer=tokenizer.close(),
            report_schema=schema.close(),
            memory_plan={item.name: item.planned_bytes for item in memory_plan.items},
            build={**versions, "time": datetime.now(timezone.utc).isoformat(timespec="seconds")},
            hashes=hashes,
        )
        (partial / MANIFEST_NAME).write_text(manifest_to_json(manifest), encoding="utf-8")
        load_bundle(partial, target=target, verify_hashes=True)
        _remove_all_but(partial, {MANIFEST_NAME, _JOURNAL_NAME, *(entry.path for entry in manifest.files)})
        _move_into_place(partial, out)
        (out / _JOURNAL_NAME).unlink()
    except EdgeRuntimeError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise BuildError(_why_not_written(error, out, plan.disk_bytes)) from error
    return Bundle(out, manifest)


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
        document = {"key": self.key, "components": [asdict(c) for c in self.components.values()]}
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(document), encoding="utf-8")
        os.replace(temporary, self.path)


def _open_journal(partial: Path, key: Mapping[str, Any]) -> _Journal:
    """The journal of an interrupted build with the same key; or an empty directory and a new journal."""
    path = partial / _JOURNAL_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["key"] == key:
            components = [dataclass_from_json(item, Component) for item in document["components"]]
            return _Journal(path, key, {component.name: component for component in components})
    except (FileNotFoundError, ValueError, KeyError, TypeError, MismatchError):
        pass  # no journal, or not one of ours: begin anew
    if partial.exists():
        if not path.exists() and any(partial.iterdir()):
            raise BuildError(f"{partial} exists and is no interrupted build; move it away, or choose another --out")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    journal = _Journal(path, key, {})
    journal.save()
    return journal


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
