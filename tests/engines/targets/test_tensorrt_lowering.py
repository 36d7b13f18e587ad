"""Graphs for TensorRT compute what transformers computes, read the cache without copying it, and stay standard ONNX."""

import numpy as np
import onnx
import pytest

from edge_runtime.vision.image_processors import layout_of, pixels_from_frame
from engines.checkpoint import load_checkpoint
from engines.evaluation.fidelity import compare_traces
from engines.families import read_model
from engines.families.synthetic import open_checkpoint
from engines.quantize.methods.rtn import block_size_for, dequantize, quantize_rtn
from engines.quantize.recipe import load_recipe
from tests.engines.checkpoints import write_checkpoint
from tests.engines.targets.graph_execution import GraphDecoder, emit
from tests.parity.golden import CHECKPOINTS, PROMPT, golden_pixels, load_golden, write_golden_checkpoint
from tests.parity.golden_families import CASES, excerpt, image_of, load_golden_families, write_family_checkpoint
from tests.parity.golden_processors import golden_frame

TINY = "synthetic:tiny-llava"
IMAGE_ROWS = np.linspace(-1, 1, 16 * 128, dtype=np.float16).reshape(1, 16, 128)
TOKENS = tuple(range(40, 70))


def decoder(directory, recipe="fp16", before_image=PROMPT.before_image, **options):
    directory.mkdir(exist_ok=True)
    return GraphDecoder(directory, open_checkpoint(TINY), load_recipe(recipe), before_image, **options)


def graphs(directory, recipe):
    """Every component's graph of the tiny checkpoint, read back."""
    checkpoint = open_checkpoint(TINY)
    parts = [part for part in read_model(checkpoint).parts if part.emit]
    for part in parts:
        emit(directory, part, checkpoint, load_recipe(recipe))
    return {part.name: onnx.load(directory / f"{part.name}.onnx", load_external_data=False) for part in parts}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_float16_graphs_compute_what_transformers_computes(name, tmp_path):
    checkpoint, golden = write_golden_checkpoint(name, tmp_path), load_golden(name)

    runner = GraphDecoder(tmp_path, checkpoint, load_recipe("fp16"), PROMPT.before_image)
    found = runner.trace(golden_pixels(checkpoint), PROMPT.after_image, golden.tokens)

    fidelity = compare_traces([found], [golden])
    assert fidelity.features_cosine > 0.9999
    assert fidelity.logits_relative_error < 3e-3  # float16 carries three digits
    assert fidelity.identical_tokens == 1.0


@pytest.mark.parametrize("case", CASES)
def test_float16_graphs_of_tiles_compute_what_transformers_computes(case, tmp_path):
    name, tiles = CASES[case]
    checkpoint, golden = write_family_checkpoint(name, tmp_path), load_golden_families()[case, "16:9"]
    image, frame = image_of(checkpoint, tiles), golden_frame("16:9")

    runner = GraphDecoder(tmp_path, checkpoint, load_recipe("fp16"), PROMPT.before_image)
    layout = layout_of(image, *frame.shape[:2])
    whole = runner.trace(pixels_from_frame(frame, image), PROMPT.after_image, golden.tokens, layout)

    found = excerpt(whole)
    for part in ("features", "image_embeddings", "logits"):
        expected = getattr(golden, part)
        assert np.abs(getattr(found, part) - expected).max() < 4e-3 * np.abs(expected).max()  # as float16 carries
    same = whole.logits.argmax(axis=1) == golden.tokens
    assert same.mean() >= 62 / 64


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_four_bit_graphs_compute_with_the_weights_that_dequantizing_gives(name, tmp_path):
    def rounded(tensor):
        matrix = tensor.reshape(len(tensor), -1)
        if tensor.ndim == 1 or len(tensor) == 17:  # positions stay as they are
            return tensor
        quantized = quantize_rtn(matrix, block_size_for(matrix.shape[1], 128))
        return dequantize(quantized).astype(np.float16).reshape(tensor.shape)

    checkpoint, tokens = write_golden_checkpoint(name, tmp_path), load_golden(name).tokens
    plain = load_checkpoint(write_checkpoint(checkpoint, tmp_path / "rounded", convert=rounded))
    runners = [
        GraphDecoder(tmp_path, checkpoint, load_recipe("uniform-int4"), PROMPT.before_image),
        GraphDecoder(tmp_path / "rounded", plain, load_recipe("fp16"), PROMPT.before_image),
    ]

    traces = [runner.trace(golden_pixels(checkpoint), PROMPT.after_image, tokens) for runner in runners]

    np.testing.assert_allclose(traces[0].logits, traces[1].logits, atol=2e-3 * np.abs(traces[1].logits).max())


@pytest.mark.parametrize("recipe", ["fp16", "asymmetric-int4"])
def test_prefilling_many_tokens_at_once_equals_feeding_them_one_by_one(tmp_path, recipe):
    runner = decoder(tmp_path, recipe)
    runner.prefill(IMAGE_ROWS, TOKENS[:3])
    one_by_one = [runner.append([token]) for token in TOKENS[3:]][-1]

    np.testing.assert_allclose(runner.prefill(IMAGE_ROWS, TOKENS), one_by_one, atol=4e-3 * np.abs(one_by_one).max())


@pytest.mark.parametrize("group_parameters", [1, 300_000])
def test_decoders_split_into_groups_compute_the_same(tmp_path, group_parameters):
    whole = decoder(tmp_path / "whole").prefill(IMAGE_ROWS, TOKENS)
    split = decoder(tmp_path / "split", group_parameters=group_parameters).prefill(IMAGE_ROWS, TOKENS)

    np.testing.assert_allclose(split, whole, atol=2e-3 * np.abs(whole).max())


def test_text_before_the_image_is_attended_to_where_the_cache_holds_several_buckets(tmp_path):
    def logits(first):
        return decoder(tmp_path, before_image=(1, first, *range(3, 300))).prefill(IMAGE_ROWS, TOKENS)

    assert np.abs(logits(90) - logits(91)).max() > 1e-3


def test_rows_of_the_cache_beyond_what_is_filled_are_not_seen(tmp_path):
    runner = decoder(tmp_path)
    fresh = runner.prefill(IMAGE_ROWS, TOKENS)
    for token in range(100, 140):  # leaves rows behind that the next prefill must not see
        runner.append([token])

    np.testing.assert_array_equal(runner.prefill(IMAGE_ROWS, TOKENS), fresh)


@pytest.mark.parametrize("recipe", ["fp16", "asymmetric-int4", "uniform-int4"])
def test_graphs_use_operators_of_onnx_only(tmp_path, recipe):
    for name, model in graphs(tmp_path, recipe).items():
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 21)]
        onnx.checker.check_model(tmp_path / f"{name}.onnx")


def test_nothing_stands_between_a_four_bit_weight_and_its_product(tmp_path):
    nodes = graphs(tmp_path, "asymmetric-int4")["decoder.00"].graph.node
    dequantized = {node.output[0]: node for node in nodes if node.op_type == "DequantizeLinear"}
    assert len(dequantized) == 4 * 4  # qkv, o, gate and up, down of four layers

    readers = {name: [n.op_type for n in nodes if name in n.input] for name in dequantized}

    assert set(map(tuple, readers.values())) == {("MatMul",)}
    blocks = {tuple((a.name, a.i) for a in sorted(n.attribute, key=lambda a: a.name)) for n in dequantized.values()}
    assert blocks == {(("axis", 0), ("block_size", 128)), (("axis", 0), ("block_size", 64))}


def test_a_decoder_reads_a_token_major_cache_and_puts_out_new_rows_only(tmp_path):
    checkpoint = open_checkpoint(TINY)
    [part] = [part for part in read_model(checkpoint).parts if part.role == "decoder"]

    graph = emit(tmp_path, part, checkpoint, load_recipe("fp16"))

    names = [f"{name}.{layer}" for layer in range(4) for name in ("key", "value")]
    assert {spec.name: (spec.dtype, spec.shape) for spec in graph.inputs} == {
        "hidden_states": ("float16", (1, "T", 128)),
        "past_length": ("int32", (1,)),
        "rotary_cos": ("float32", ("P", 16)),
        "rotary_sin": ("float32", ("P", 16)),
        **{f"past_{name}": ("float16", (1, "C", 2, 32)) for name in names},
    }
    assert {spec.name: (spec.dtype, spec.shape) for spec in graph.outputs} == {
        "hidden_states_out": ("float16", (1, 1, 128)),  # of the last row
        **{f"new_{name}": ("float16", (1, "T", 2, 32)) for name in names},
    }


def test_a_node_says_which_layer_it_is_of(tmp_path):
    nodes = graphs(tmp_path, "fp16")["vision_encoder"].graph.node

    assert {node.name.split("/")[0] for node in nodes if "/" in node.name} == {"layers.0", "layers.1"}
