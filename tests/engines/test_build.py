"""Building: what a bundle says of itself, what a build shows, and what it refuses before it begins."""

import contextlib
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_runtime import Inspector
from edge_runtime.bundle.opening import load_bundle
from edge_runtime.errors import BudgetExceededError, CheckpointError, RecipeError, SchemaError
from edge_runtime.language.grammar import Grammar
from edge_runtime.reports.report import answer_schema
from edge_runtime.reports.schema import SHIPPED, load_schema, schema_from_yaml
from engines.build import build
from engines.families.synthetic import open_checkpoint
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import load_recipe
from engines.reference.answers import answer_tokens
from tests.engines.builds import LATE, WatchedCheckpoint, build_tiny, contents
from tests.engines.checkpoints import write_checkpoint


def test_a_bundle_says_what_it_is_and_loads(tmp_path):
    build_tiny(tmp_path / "bundle")

    manifest = load_bundle(tmp_path / "bundle", target="onnxruntime", verify_hashes=True).manifest

    assert (manifest.name, manifest.family, manifest.recipe) == ("tiny-llava", "llava", "asymmetric-int4")
    assert {c.role: (c.precision, c.block_size, c.method) for c in manifest.components} == {
        "vision_encoder": ("float16", None, "cast"),
        "connector": ("float16", None, "cast"),
        "embedding": ("float16", None, "cast"),
        "decoder": ("int4", 128, "rtn"),
        "lm_head": ("float16", None, "cast"),
    }
    assert manifest.hashes.checkpoint == open_checkpoint("synthetic:tiny-llava").sha256()
    assert {"numpy", "onnx", "python", "time"} <= set(manifest.build)


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-amx"])
@pytest.mark.parametrize("recipe", ["fp16", "asymmetric-int4", "uniform-int4"])
def test_components_weigh_what_was_planned_but_for_their_nodes(tmp_path, recipe, target):
    checkpoint = open_checkpoint("synthetic:tiny-llava")
    planned = plan_bundle(checkpoint, load_recipe(recipe), target).manifest

    built = build(checkpoint, load_recipe(recipe), target, tmp_path / "bundle").manifest

    sizes = {component.name: component.size_bytes for component in planned.components}
    assert {c.name: pytest.approx(c.size_bytes, abs=20_000) for c in built.components} == sizes


def test_engines_have_the_inputs_and_outputs_of_the_contract(tmp_path):
    manifest = build_tiny(tmp_path / "bundle", group_parameters=300_000).manifest

    first, group = manifest.decoder_groups

    assert group.layers == (2, 4)
    assert {spec.name: (spec.dtype, spec.shape) for spec in group.inputs} == {
        "hidden_states": ("float32", (1, "T", 128)),
        "seqlens_k": ("int32", (1,)),
        "total_sequence_length": ("int32", (1,)),
        "rotary_cos": ("float32", ("C", 16)),
        "rotary_sin": ("float32", ("C", 16)),
        **{f"past_{part}.{i}": ("float32", (1, 2, "C", 32)) for i in (2, 3) for part in ("key", "value")},
    }
    assert {spec.name: (spec.dtype, spec.shape) for spec in group.outputs} == {
        "hidden_states_out": ("float32", (1, 1, 128)),  # of the last row
        **{f"present_{part}.{i}": ("float32", (1, 2, "C", 32)) for i in (2, 3) for part in ("key", "value")},
    }
    assert first.outputs[-1].shape == (1, "T", 128)
    assert [spec.shape for spec in manifest.component("vision_encoder").outputs] == [(1, 16, 64)]
    assert [spec.shape for spec in manifest.component("lm_head").outputs] == [(1, "T", 512)]


def test_an_embedding_says_the_block_size_it_really_has(tmp_path):
    checkpoint = open_checkpoint("synthetic:tiny-llava")

    component = build_tiny(tmp_path / "bundle", checkpoint, "uniform-int4").manifest.component("embedding")

    assert {file.path: file.size_bytes for file in component.files} == {
        "embedding.q4": 512 * 128 // 2,
        "embedding.scales": 512 * 128 // component.block_size * 2,
    }


def test_the_same_build_gives_the_same_bytes(tmp_path):
    build_tiny(tmp_path / "one")
    build_tiny(tmp_path / "two")

    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_build_shows_on_a_terminal_what_it_writes_and_how_long_it_will_take(tmp_path):
    here, there = os.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))  # rows and columns
    command = [sys.executable, "-m", "engines.cli", "build", "synthetic:tiny-llava", "--out", str(tmp_path / "bundle")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=there)
    os.close(there)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's end
        while piece := os.read(here, 4096):
            shown += piece
    os.close(here)

    assert process.wait(timeout=60) == 0
    assert b"building bundle" in shown
    assert b"decoder.00" in shown
    assert re.search(rb"\d+:\d\d<\d+:\d\d", shown)  # so long ago, so long to go


def test_a_plan_beyond_the_budget_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BudgetExceededError, match="decoder"):
        build_tiny(tmp_path / "bundle", budget_bytes=1_000_000)

    assert os.listdir(tmp_path) == []


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=f"{LATE} holds NaN"):
        build_tiny(tmp_path / "bundle", WatchedCheckpoint(damage=LATE))


@pytest.mark.parametrize("text", [b"{}", b'{"model": {"type": "BPE"}}', b"\xff"])
def test_a_tokenizer_that_is_none_is_refused_before_anything_is_written(tmp_path, text):
    checkpoint = replace(open_checkpoint("synthetic:tiny-llava"), tokenizer_json=text)

    with pytest.raises(CheckpointError, match=r"tokenizer\.json of tiny-llava"):
        build_tiny(tmp_path / "bundle", checkpoint)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("token", [-1, 10**30])
def test_an_image_token_that_no_tokenizer_has_is_refused(tmp_path, token):
    checkpoint = open_checkpoint("synthetic:tiny-llava")
    checkpoint = replace(checkpoint, config={**checkpoint.config, "image_token_index": token})

    with pytest.raises(CheckpointError, match="copy the checkpoint again"):
        build_tiny(tmp_path / "bundle", checkpoint)


def test_a_larger_context_takes_more_memory():
    checkpoint, recipe = open_checkpoint("synthetic:llava-1.5-7b"), load_recipe("asymmetric-int4")

    short, long = (plan_bundle(checkpoint, recipe, "onnxruntime", context).memory_plan for context in (1024, 2048))

    assert long.planned_bytes > short.planned_bytes


def test_an_unknown_target_is_refused_with_the_known(tmp_path):
    with pytest.raises(RecipeError, match="there are onnxruntime"):
        build(WatchedCheckpoint(), load_recipe("fp16"), "abacus", tmp_path / "bundle")


def test_a_prompt_of_the_checkpoint_reaches_the_bundle(tmp_path):
    checkpoint = replace(open_checkpoint("synthetic:tiny-llava"), prompt={"before_image": "B", "after_image": "A"})

    prompt = build_tiny(tmp_path / "bundle", checkpoint).manifest.prompt

    assert (prompt.before_image, prompt.after_image) == ("B", "A")


def test_sharded_and_single_files_give_the_same_engines(tmp_path):
    tiny = open_checkpoint("synthetic:tiny-llava")
    for shards in (1, 4):
        directory = write_checkpoint(tiny, tmp_path / f"checkpoint{shards}", shards=shards)
        command = ["build", str(directory), "--out", str(tmp_path / f"bundle{shards}"), "--json"]
        result = subprocess.run([sys.executable, "-m", "engines.cli", *command], capture_output=True, check=True)
        assert json.loads(result.stdout)["size_bytes"] > 0

    assert contents(tmp_path / "bundle1") == contents(tmp_path / "bundle4")


ROOFS = schema_from_yaml(b"name: roofs\nsubject: the roof\nclasses: [moss, hole]\nseverities: [small, large]")


def test_a_bundle_carries_the_schema_that_it_was_built_for(tmp_path):
    bundle = build(
        open_checkpoint("synthetic:tiny-llava"), load_recipe("fp16"), "onnxruntime", tmp_path / "roofs", schema=ROOFS
    )
    assert ROOFS.instruction(100) in bundle.manifest.prompt.before_image
    with Inspector.open(bundle.path, threads=1) as inspector:
        assert inspector.schema == ROOFS
        assert inspector.inspect(np.zeros((8, 8, 3), np.uint8)).schema == ROOFS


def test_a_schema_that_does_not_fit_into_the_context_is_not_built(tmp_path):
    with pytest.raises(SchemaError, match="cannot be decoded within a context of 1024"):
        plan_bundle(
            open_checkpoint("synthetic:tiny-llava"),
            load_recipe("fp16"),
            "onnxruntime",
            schema=load_schema("solar-panel"),
        )


def test_a_checkpoint_with_a_prompt_of_its_own_is_said_to_keep_it(tmp_path, caplog):
    checkpoint = replace(open_checkpoint("synthetic:tiny-llava"), prompt={"before_image": "B", "after_image": "A"})
    bundle = build(checkpoint, load_recipe("fp16"), "onnxruntime", tmp_path / "own", schema=ROOFS)
    assert bundle.manifest.prompt.before_image == "B"
    assert "held to the schema roofs, whose classes it need not name" in caplog.text


@pytest.mark.parametrize("name", SHIPPED)
def test_answers_for_calibration_are_answers_of_the_schema(name):
    tokenizer = Tokenizer.from_str(open_checkpoint("synthetic:tiny-llava").tokenizer_json.decode())
    schema = load_schema(name)
    grammar = Grammar(tokenizer, 512, [2], answer_schema(schema))
    [first, *_] = answer_tokens(tokenizer, answers=4, tokens=10_000, schema=schema)  # which begins where answers do
    assert len(first) > 100
    grammar.allowed_along(first)
