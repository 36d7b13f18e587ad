"""What a bundle will weigh, on disk and in memory, before anything is written; reads settings and shapes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from tokenizers import Tokenizer

from edge_runtime.bundle.manifest import (
    DEEPSTACK,
    SCHEMA_VERSION,
    Component,
    FileEntry,
    Hashes,
    LayerState,
    Manifest,
    TensorSpec,
)
from edge_runtime.bundle.report_schema import SCHEMA_NAME
from edge_runtime.errors import CheckpointError, EdgeRuntimeError, RecipeError, SchemaError
from edge_runtime.language.tokenizer import PromptTokens, prompt_tokens
from edge_runtime.memory.footprint import FOOTPRINTS
from edge_runtime.memory.plan import MemoryPlan, MemoryPlanItem, plan_memory
from edge_runtime.reports.report import answer_from_findings, widest_finding
from edge_runtime.reports.schema import BRIDGE, ReportSchema
from engines.checkpoint import Checkpoint
from engines.families import DEFAULT_GROUP_PARAMETERS, read_model
from engines.families.base import AS_SUGGESTED, ImageOptions, Model, Part
from engines.families.heads import split_head
from engines.planning.quantized import keep_quantized
from engines.quantize.recipe import COMPUTED, PrecisionPlan
from engines.targets import target_kind
from engines.targets.base import TargetKind, component_of

_CONTEXT = 2048  # tokens of prompt, image and answer together, where nothing else is asked for
_TEXT = 512  # of them, for prompt and answer: 130 and 256 with LLaMA's tokenizer


@dataclass(frozen=True)
class BundlePlan:
    """A bundle that isn't there yet."""

    model: Model
    parts: tuple[Part, ...]  # of the model, as the target wants them cut
    manifest: Manifest  # with the sizes that files will have, and no hashes
    memory_plan: MemoryPlan  # what the runtime will hold
    context_tokens: int  # of prompt, image and answer
    image: ImageOptions  # what was chosen of how frames become images
    precisions: PrecisionPlan  # the recipe's, and the checkpoint's own where that is quantized already
    notes: tuple[str, ...] = ()  # what a person should know of the two

    @property
    def disk_bytes(self) -> int:
        """Size of the bundle, within a few per cent."""
        return self.manifest.size_bytes


def plan_bundle(
    checkpoint: Checkpoint,
    precisions: PrecisionPlan,
    target: str,
    context: int | None = None,
    group_parameters: int = DEFAULT_GROUP_PARAMETERS,
    image: ImageOptions = AS_SUGGESTED,
    schema: ReportSchema = BRIDGE,
) -> BundlePlan:
    """Plan every component at its precision, and the memory that a cache of ``context`` tokens takes with them.

    ``schema`` is what reports are to say; the prompt asks for it, but where a checkpoint brings a prompt of its own.

    Raises:
        SchemaError: no finding of the schema fits into the context.
        RecipeError: there is no such target, or it lacks what the recipe asks for; an exception fits no matrix;
            ``context``, or the model's own positions, leave no room for an answer; ``context`` is more than those.
        CheckpointError: the checkpoint is not supported, or contradicts itself, as in its tokenizer.
    """
    kind = target_kind(target)
    if lack := kind.lacks(precisions):
        raise RecipeError(
            f"the recipe {precisions.recipe} asks for {lack}, which {target} has not; choose another recipe, or build "
            "for onnxruntime"
        )
    model = read_model(checkpoint, group_parameters, image, schema)
    parts = tuple(piece for part in model.parts for piece in split_head(part, kind.head_parameters))
    _check_patterns(precisions, parts)
    precisions, notes = keep_quantized(precisions, checkpoint, model.parts)
    if context is not None and context > model.spec.max_positions:
        raise RecipeError(
            f"a context of {context} tokens is more than the {model.spec.max_positions} positions that "
            f"{checkpoint.name} was trained for; ask for a --context of {model.spec.max_positions} at most"
        )
    context_tokens = context or min(max(_CONTEXT, shortest_context(model)), model.spec.max_positions)
    if not model.only_planned:
        _check_room(checkpoint, model, context_tokens)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        task="generate",
        name=checkpoint.name,
        family=model.family,
        target=target,
        recipe=precisions.recipe,
        model=model.spec,
        image=model.image,
        prompt=model.prompt,
        coordinates=model.coordinates,
        positions=model.positions,
        state=(LayerState("self"),) * model.spec.num_layers,
        components=tuple(_planned_component(part, precisions, kind, model) for part in parts),
        tokenizer=FileEntry("tokenizer.json", "", len(checkpoint.tokenizer_json)),
        report_schema=FileEntry(SCHEMA_NAME, "", len(model.asked.to_json().encode())),
        memory_plan={},
        build={"step_tokens": min(shortest_context(model), context_tokens)},  # no step is longer
        hashes=Hashes(checkpoint=None, calibration=None),
        fidelity=None,
    )
    memory_plan = _plan_memory(manifest, model, context_tokens)
    return BundlePlan(model, parts, manifest, memory_plan, context_tokens, image, precisions, notes)


def prompt_of(checkpoint: Checkpoint, model: Model) -> PromptTokens:
    """The model's own prompt in tokens.

    Raises:
        CheckpointError: the checkpoint's tokenizer cannot be read, or does not know the image's token.
    """
    try:
        tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json.decode("utf-8"))
        return prompt_tokens(tokenizer, model.prompt, model.spec.image_token_id)
    except EdgeRuntimeError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(
            f"the tokenizer.json of {checkpoint.name} is none, or not of this model: {error}; copy the checkpoint again"
        ) from error


def _check_room(checkpoint: Checkpoint, model: Model, context_tokens: int) -> None:
    """Refuse a prompt that leaves no room for the shortest answer, or has tokens that the embedding has no row of."""
    prompt = prompt_of(checkpoint, model)
    ids, image_tokens = (*prompt.before_image, *prompt.after_image), model.image.max_tokens
    if max(ids, default=0) >= model.spec.vocab_size:
        raise CheckpointError(
            f"the tokenizer.json of {checkpoint.name} gives the prompt a token {max(ids)}, and the embedding has rows "
            f"for {model.spec.vocab_size}; the two don't belong together"
        )
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json.decode("utf-8"))
    schema, steps = model.asked.schema, model.coordinates.steps
    shortest = () if schema == BRIDGE else (widest_finding(schema),)
    answer = tokenizer.encode(answer_from_findings(shortest, schema, steps))
    needed = len(ids) + image_tokens + len(answer.ids)
    if needed <= context_tokens:
        return
    if schema != BRIDGE:
        raise SchemaError(
            f"the schema {schema.name} cannot be decoded within a context of {context_tokens} tokens: the prompt takes "
            f"{len(ids)}, the image {image_tokens}, and a finding up to {len(answer.ids)} before its description; name "
            f"fewer classes or values, in fewer words, or ask for a larger --context, of {model.spec.max_positions} at "
            "most"
        )
    most = model.spec.max_positions
    wider = max(shortest_context(model), min(needed + _TEXT // 2, most))
    advice = f"ask for a --context of {wider}, or leave it out" if needed <= most else "take a shorter prompt"
    raise RecipeError(
        f"a context of {context_tokens} tokens leaves no room for an answer: the prompt takes {len(ids)}, and the "
        f"image {image_tokens}; {advice}"
    )


def shortest_context(model: Model) -> int:
    """Tokens that leave room for the prompt, an image and a report's usual length."""
    return min(model.image.max_tokens + _TEXT, model.spec.max_positions)


def _plan_memory(manifest: Manifest, model: Model, context_tokens: int) -> MemoryPlan:
    """The runtime's memory plan, and what a model needs that no runtime has yet."""
    memory_plan = plan_memory(manifest, context_tokens)
    if not model.image_cache_numbers:
        return memory_plan
    image_cache = model.image_cache_numbers * FOOTPRINTS[manifest.target].number_bytes
    return replace(memory_plan, items=(*memory_plan.items, MemoryPlanItem("image_cache", image_cache)))


def _check_patterns(precisions: PrecisionPlan, parts: Sequence[Part]) -> None:
    for component, precision in precisions.components.items():
        mine = [part for part in parts if part.role == component]
        names = [name for part in mine for name in (*part.matrices, *part.products)]
        for pattern, _ in precision.exceptions:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise RecipeError(
                    f"the recipe {precisions.recipe} has an exception of {component} for {pattern!r}, which fits none "
                    f"of its matrices; they are called {', '.join(names[:3])}, ..."
                )


def _planned_component(part: Part, precisions: PrecisionPlan, kind: TargetKind, model: Model) -> Component:
    precision = precisions.components[part.role]
    files = (FileEntry(part.name, "", kind.planned_bytes(part, precision)),)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    if part.role == "vision_encoder":
        maps = ((f"{DEEPSTACK}{i}", size) for i, size in enumerate(model.vision.deepstack))
        sizes = {"features": model.vision.at_a_time, **dict(maps)}
        outputs = tuple(TensorSpec(name, "float32", (1, *size)) for name, size in sizes.items())
    if part.role == "decoder":
        cache_dtype = kind.cache_dtype(model.spec.head_dim) if precisions.kv_cache == COMPUTED else precisions.kv_cache
        inputs = (TensorSpec("past_key", cache_dtype, ()),)
    return component_of(part, precision, files, inputs, outputs)
