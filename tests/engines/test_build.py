"""Building: what a bundle says of itself, and how a build survives interruption, full disks and bad weights."""

import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.errors import BudgetExceededError, BuildError, CheckpointError, RecipeError
from engines.build import build
from engines.plan import plan_bundle
from engines.precision import load_recipe
from engines.synthetic import open_checkpoint
from tests.engines.checkpoints import write_checkpoint


class WatchedCheckpoint:
    """The tiny checkpoint; notes which tensors are read, and is interrupted or damaged at one of them."""

    def __init__(self, interrupt_at: str = "", damage: str = "") -> None:
        self._tiny = open_checkpoint("synthetic:tiny-llava")
        self._interrupt_at = interrupt_at
        self._damage = damage
        self.read: list[str] = []

    def __getattr__(self, name):
        return getattr(self._tiny, name)

    def __contains__(self, name):
        return name in self._tiny

    def __iter__(self):
        return iter(self._tiny)

    def tensor(self, name):
        if name == self._interrupt_at:
            raise KeyboardInterrupt
        self.read.append(name)
        tensor = self._tiny.tensor(name)
        return np.full_like(tensor, np.nan) if name == self._damage else tensor


LATE = "language_model.model.layers.3.mlp.up_proj.weight"


def build_tiny(out, checkpoint=None, recipe="asymmetric-int4", **options):
    return build(checkpoint or WatchedCheckpoint(), load_recipe(recipe), "onnxruntime", out, **options)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "bundle.json"}


def test_a_bundle_says_what_it_is_and_loads(tmp_path):
    build_tiny(tmp_path / "bundle")

    manifest = load_bundle(tmp_path / "bundle", target="onnxruntime", verify_hashes=True).manifest

    assert (manifest.name, manifest.family, manifest.recipe) == ("tiny-llava", "llava", "asymmetric-int4")
    assert {c.kind: (c.precision, c.block_size, c.method) for c in manifest.components} == {
        "vision_encoder": ("float16", None, "cast"),
        "connector": ("float16", None, "cast"),
        "embedding": ("float16", None, "cast"),
        "decoder": ("int4", 128, "rtn"),
        "lm_head": ("float16", None, "cast"),
    }
    assert manifest.hashes.checkpoint == open_checkpoint("synthetic:tiny-llava").sha256()
    assert manifest.hashes.recipe == load_recipe("asymmetric-int4").sha256
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


def test_an_interrupted_build_leaves_nothing_that_loads_and_goes_on_where_it_stopped(tmp_path):
    out, partial = tmp_path / "bundle", tmp_path / "bundle.partial"
    with pytest.raises(KeyboardInterrupt):
        build_tiny(out, WatchedCheckpoint(interrupt_at=LATE))
    assert not out.exists()
    assert not (partial / "bundle.json").exists()

    second = WatchedCheckpoint()
    build_tiny(out, second)

    assert not any("vision_tower" in name for name in second.read)
    assert LATE in second.read
    assert not partial.exists()
    build_tiny(tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


KILLED = """
import os, signal, sys
from tests.engines.test_build import LATE, WatchedCheckpoint, build_tiny
from pathlib import Path

class Killed(WatchedCheckpoint):
    def tensor(self, name):
        if name == LATE:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().tensor(name)

build_tiny(Path(sys.argv[1]), Killed(), group_parameters=100_000)
"""


def test_a_build_that_is_killed_goes_on_without_redoing_finished_groups(tmp_path):
    out = tmp_path / "bundle"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out)], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()

    second = WatchedCheckpoint()
    build_tiny(out, second, group_parameters=100_000)

    layers = {name.split(".")[3] for name in second.read if ".layers." in name and "language_model" in name}
    assert layers == {"3"}  # of 4, a group each
    build_tiny(tmp_path / "whole", group_parameters=100_000)
    assert contents(out) == contents(tmp_path / "whole")


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


def test_a_component_that_was_altered_meanwhile_is_built_again(tmp_path):
    out, partial = tmp_path / "bundle", tmp_path / "bundle.partial"
    with pytest.raises(KeyboardInterrupt):
        build_tiny(out, WatchedCheckpoint(interrupt_at=LATE))
    (partial / "connector.onnx.data").write_bytes(b"damaged")

    second = WatchedCheckpoint()
    build_tiny(out, second)

    assert any("multi_modal_projector" in name for name in second.read)
    assert not any("vision_tower" in name for name in second.read)
    load_bundle(out, verify_hashes=True)


@pytest.mark.parametrize("journal", [b"", b"{", b"[]", b'{"key": 1, "components": []}'])
def test_a_partial_directory_of_another_build_is_begun_anew(tmp_path, journal):
    out, partial = tmp_path / "bundle", tmp_path / "bundle.partial"
    with pytest.raises(KeyboardInterrupt):
        build_tiny(out, WatchedCheckpoint(interrupt_at=LATE))
    (partial / "stray").write_bytes(b"x")
    (partial / "journal.json").write_bytes(journal)

    build_tiny(out)

    assert not (out / "stray").exists()
    load_bundle(out, verify_hashes=True)


def test_a_directory_that_only_looks_like_a_partial_build_is_not_touched(tmp_path):
    (tmp_path / "bundle.partial").mkdir()
    (tmp_path / "bundle.partial" / "thesis.tex").write_text("years of work")

    with pytest.raises(BuildError, match="is no interrupted build"):
        build_tiny(tmp_path / "bundle")

    assert (tmp_path / "bundle.partial" / "thesis.tex").read_text() == "years of work"


def test_another_recipe_does_not_take_over_components(tmp_path):
    out = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        build_tiny(out, WatchedCheckpoint(interrupt_at=LATE), "fp16")

    manifest = build_tiny(out, recipe="uniform-int4").manifest

    assert {component.precision for component in manifest.components} == {"int4"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_reported_with_the_room_needed_and_the_build_can_go_on(tmp_path):
    out, partial = tmp_path / "bundle", tmp_path / "bundle.partial"
    with pytest.raises(KeyboardInterrupt):
        build_tiny(out, WatchedCheckpoint(interrupt_at=LATE))
    (partial / "decoder.00.onnx.data").unlink()
    (partial / "decoder.00.onnx.data").symlink_to("/dev/full")

    with pytest.raises(BuildError, match=r"No space left.*takes about \d+.* kB.*run the same command again"):
        build_tiny(out)

    (partial / "decoder.00.onnx.data").unlink()
    second = WatchedCheckpoint()
    build_tiny(out, second)
    assert not any("vision_tower" in name for name in second.read)
    load_bundle(out, verify_hashes=True)


def test_a_command_whose_disk_is_full_ends_with_one_line_and_exit_code_1(tmp_path):
    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    arguments = ["build", "synthetic:tiny-llava", "--recipe", "fp16", "--out", str(tmp_path / "bundle")]
    command = [sys.executable, "-m", "engines.cli", *arguments]
    result = subprocess.run(
        command, preexec_fn=limit_file_size, capture_output=True, text=True, timeout=60, check=False
    )

    assert result.returncode == 1
    assert result.stdout == ""
    assert "no room to write" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["file/bundle", "x" * 300, "a\0b"])
def test_a_directory_that_cannot_be_made_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")

    with pytest.raises(BuildError, match="cannot write"):
        build_tiny(tmp_path / name)


@pytest.mark.parametrize("force", [False, True])
def test_the_root_of_all_files_is_no_place_for_a_bundle(force):
    with pytest.raises(BuildError, match="choose another --out"):
        build_tiny(Path("/"), force=force)


def test_an_existing_bundle_is_kept_unless_forced(tmp_path):
    out = tmp_path / "bundle"
    build_tiny(out, recipe="fp16")

    with pytest.raises(BuildError, match="--force"):
        build_tiny(out)
    assert load_bundle(out).manifest.recipe == "fp16"

    build_tiny(out, force=True)
    assert load_bundle(out).manifest.recipe == "asymmetric-int4"
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_replacement_that_was_killed_half_way_does_not_hinder_the_next(tmp_path):
    out = tmp_path / "bundle"
    build_tiny(out, recipe="fp16")
    out.rename(tmp_path / "bundle.old")
    build_tiny(out, recipe="fp16")

    build_tiny(out, force=True)

    assert load_bundle(out, verify_hashes=True).manifest.recipe == "asymmetric-int4"
    assert os.listdir(tmp_path) == ["bundle"]


def test_force_never_replaces_a_directory_that_is_no_bundle(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(BuildError, match="is no bundle"):
        build_tiny(tmp_path, force=True)

    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_forced_build_leaves_the_old_bundle(tmp_path):
    out = tmp_path / "bundle"
    build_tiny(out, recipe="fp16")

    with pytest.raises(CheckpointError):
        build_tiny(out, WatchedCheckpoint(damage=LATE), force=True)

    assert load_bundle(out, verify_hashes=True).manifest.recipe == "fp16"


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

    short, long = (plan_bundle(checkpoint, recipe, "onnxruntime", context).ledger for context in (1024, 2048))

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
