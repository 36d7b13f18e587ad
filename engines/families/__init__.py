"""One file per model architecture; adding one touches nothing else but the table below."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from edge_runtime.bundle.report_schema import AskedSchema, find_instruction, with_schema
from edge_runtime.errors import CheckpointError
from edge_runtime.reports.schema import BRIDGE, ReportSchema
from engines.checkpoint import Checkpoint
from engines.families.base import AS_SUGGESTED, ImageOptions, Model, check_parameters
from engines.families.internvl import read_internvl
from engines.families.llava import read_llava
from engines.families.llava_next import read_llava_next
from engines.families.mllama import read_mllama
from engines.families.qwen2_5_vl import read_qwen2_5_vl
from engines.families.qwen3_vl import read_qwen3_vl
from engines.families.smolvlm import read_smolvlm

FAMILIES: Mapping[str, Callable[[Checkpoint, int, ImageOptions], Model]] = {
    "llava": read_llava,
    "llava_next": read_llava_next,
    "mllama": read_mllama,
    "qwen2_5_vl": read_qwen2_5_vl,
    "qwen3_vl": read_qwen3_vl,
    "smolvlm": read_smolvlm,
    "idefics3": read_smolvlm,  # SmolVLM's first version has that name, and the same code
    "internvl": read_internvl,
}

_OTHER_LAYOUTS = {
    "internvl_chat": "which runs by code of its own; take the same model in transformers' layout, whose name ends with "
    "-hf, as OpenGVLab/InternVL3-2B-hf",
}

# Two of a 7B model's layers, one of a 13B's: a group is in memory twice while it is loaded.
DEFAULT_GROUP_PARAMETERS = 1 << 29


def read_model(
    checkpoint: Checkpoint,
    group_parameters: int = DEFAULT_GROUP_PARAMETERS,
    options: ImageOptions = AS_SUGGESTED,
    schema: ReportSchema = BRIDGE,
) -> Model:
    """The checkpoint as its family understands it, its tensors' shapes checked.

    Decoder layers are grouped up to ``group_parameters`` weights, one layer at least; ``options`` say how frames become
    images. The prompt asks for reports of ``schema``, but where a checkpoint brings a prompt of its own.

    Raises:
        CheckpointError: the architecture is not supported, or the checkpoint contradicts itself.
    """
    model_type = checkpoint.config.get("model_type")
    if isinstance(model_type, str) and model_type in _OTHER_LAYOUTS:
        raise CheckpointError(
            f"{checkpoint.name} has the architecture {model_type!r}, {_OTHER_LAYOUTS[model_type]} (model_type in "
            "config.json)"
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(
            f"{checkpoint.name} has the architecture {model_type!r}; supported: {', '.join(FAMILIES)} "
            "(model_type in config.json)"
        )
    model = FAMILIES[model_type](checkpoint, group_parameters, options)
    check_parameters(checkpoint, model)
    return _asking_for(schema, model)


def _asking_for(schema: ReportSchema, model: Model) -> Model:
    """The model with a prompt that asks for ``schema``: families ask for bridges."""
    coordinates = model.coordinates
    wording = BRIDGE.instruction(coordinates.steps, coordinates.unit)
    prompt, asked = with_schema(
        model.prompt, AskedSchema(BRIDGE, find_instruction(model.prompt, wording)), schema, coordinates
    )
    return replace(model, prompt=prompt, asked=asked)
