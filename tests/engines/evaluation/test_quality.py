"""The gate behind a build: bundles that report much worse than float16 are refused, and a component is blamed."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import engines.reference
from edge_runtime.errors import VerificationError
from engines.build import build
from engines.cli import main
from engines.evaluation.quality import check_quality
from engines.families.synthetic import open_checkpoint
from engines.quantize.recipe import load_recipe
from tests.engines.builds import WatchedCheckpoint

REFERENCE = Path(engines.reference.__file__).with_name("checkpoint")
SCENES = 32


class NoisyConnector(WatchedCheckpoint):
    """The reference inspector with noise where the vision encoder meets the language."""

    def __init__(self):
        super().__init__()
        self._tiny = open_checkpoint(str(REFERENCE))

    def tensor(self, name):
        tensor = np.array(self._tiny.tensor(name), np.float32)
        noise = np.random.default_rng(0).normal(size=tensor.shape).astype(np.float32)
        return tensor + 3 * tensor.std() * noise if "multi_modal_projector" in name else tensor


class LopsidedEyes(NoisyConnector):
    """The reference inspector with a vision encoder that computes the same, and that 4 bits ruin: every other column is
    tiny."""

    def tensor(self, name):
        tensor = np.array(self._tiny.tensor(name), np.float32)
        if name.startswith("vision_tower") and ".self_attn." in name:
            scales = np.where(np.arange(len(tensor)) % 2, 1, 64)
            if ".v_proj." in name:
                tensor = (tensor.T * scales).T
            if name.endswith("out_proj.weight"):
                tensor = tensor / scales
        return tensor


def test_a_sound_bundle_passes(tmp_path):
    bundle = build(open_checkpoint(str(REFERENCE)), load_recipe("asymmetric-int4"), "onnxruntime", tmp_path / "b")

    quality = check_quality(open_checkpoint(str(REFERENCE)), bundle, 0.9, SCENES)

    assert quality.float16_macro_f1 > 0.5
    assert quality.retention >= 0.9


def test_a_bundle_that_lost_its_eyes_is_refused_with_the_component_to_blame(tmp_path):
    bundle = build(NoisyConnector(), load_recipe("uniform-int4"), "onnxruntime", tmp_path / "b")

    with pytest.raises(VerificationError, match=r"keeps .*% of float16's macro-F1 .*connector at float16"):
        check_quality(open_checkpoint(str(REFERENCE)), bundle, 0.9, SCENES)


def test_a_model_that_knows_no_such_scenes_is_no_yardstick(tmp_path):
    tiny = open_checkpoint("synthetic:tiny-llava")
    bundle = build(tiny, load_recipe("asymmetric-int4"), "onnxruntime", tmp_path / "b")

    with pytest.raises(VerificationError, match="too little to say what its bundle keeps"):
        check_quality(tiny, bundle, 0.9, 2)


def test_a_build_that_its_bits_ruined_ends_with_the_exit_code_of_a_failed_verification_and_names_what_needs_more(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("engines.cli.commands.open_checkpoint", lambda name: LopsidedEyes())
    monkeypatch.setattr("engines.cli.commands.check_quality", partial(check_quality, scenes=SCENES))
    text = (Path(engines.__file__).with_name("recipes") / "uniform-int4.yaml").read_text()
    (tmp_path / "strict.yaml").write_text(f"{text}retention: 0.9\n")

    code = main(["build", "lopsided", "--recipe", str(tmp_path / "strict.yaml"), "--out", str(tmp_path / "b")])

    assert code == 3
    assert "harm is gone with vision_encoder at float16" in capsys.readouterr().err
