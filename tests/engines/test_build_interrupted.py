"""Builds that are interrupted, killed, altered meanwhile or out of room, and the folders that they find and leave."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.bundle.opening import load_bundle
from edge_runtime.errors import BuildError, CheckpointError
from tests.engines.builds import LATE, WatchedCheckpoint, build_tiny, contents


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
from tests.engines.builds import LATE, WatchedCheckpoint, build_tiny
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


def test_finished_components_of_another_recipe_are_neither_taken_over_nor_removed(tmp_path):
    out = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        build_tiny(out, WatchedCheckpoint(interrupt_at=LATE), "fp16")
    before = contents(tmp_path / "bundle.partial")

    with pytest.raises(BuildError, match=r"3 finished components .*recipe name fp16 and not uniform-int4.*--force"):
        build_tiny(out, recipe="uniform-int4")

    assert contents(tmp_path / "bundle.partial") == before
    assert {component.precision for component in build_tiny(out, recipe="fp16").manifest.components} == {"float16"}


def test_force_gives_up_components_of_another_recipe_and_says_so(tmp_path, caplog):
    out = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        build_tiny(out, WatchedCheckpoint(interrupt_at=LATE), "fp16")

    manifest = build_tiny(out, recipe="uniform-int4", force=True).manifest

    assert {component.precision for component in manifest.components} == {"int4"}
    assert "3 finished components of another build" in caplog.text


def test_a_new_kernel_does_not_begin_a_build_anew(tmp_path, monkeypatch):
    out = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt):
        build_tiny(out, WatchedCheckpoint(interrupt_at=LATE))
    monkeypatch.setattr("platform.platform", lambda: "Linux-99.1")

    second = WatchedCheckpoint()
    build_tiny(out, second)

    assert not any("vision_tower" in name for name in second.read)


def test_two_builds_into_one_place_at_once_are_refused(tmp_path):
    out = tmp_path / "bundle"

    class Impatient(WatchedCheckpoint):
        """Asks for another build of the same while it is being built."""

        def tensor(self, name):
            if name == LATE:
                with pytest.raises(BuildError, match="another build is writing"):
                    build_tiny(out)
            return super().tensor(name)

    build_tiny(out, Impatient())

    load_bundle(out, verify_hashes=True)
    assert os.listdir(tmp_path) == ["bundle"]


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
