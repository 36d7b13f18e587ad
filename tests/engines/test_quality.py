"""The gate behind a build: bundles that report much worse than float16 are refused, and a component is blamed."""

from pathlib import Path

import numpy as np
import pytest

import engines.reference
from edge_runtime.errors import VerificationError
from engines.build import build
from engines.cli import main
from engines.precision import load_recipe
from engines.quality import check_quality
from engines.synthetic import open_checkpoint
from tests.engines.test_build import WatchedCheckpoint

REFERENCE = Path(engines.reference.__file__).with_name("checkpoint")
SCENES = 12


class NoisyConnector(WatchedCheckpoint):
    """The reference inspector with noise where the eyes meet the language."""

    def __init__(self):
        super().__init__()
        self._tiny = open_checkpoint(str(REFERENCE))

    def tensor(self, name):
        tensor = np.array(self._tiny.tensor(name), np.float32)
        noise = np.random.default_rng(0).normal(size=tensor.shape).astype(np.float32)
        return tensor + 3 * tensor.std() * noise if "multi_modal_projector" in name else tensor


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


def test_a_build_below_its_recipes_retention_ends_with_the_exit_code_of_a_failed_verification(tmp_path, capsys):
    text = (Path(engines.__file__).with_name("recipes") / "asymmetric-int4.yaml").read_text()
    (tmp_path / "strict.yaml").write_text(f"{text}retention: 0.99\n")

    code = main(
        ["build", "synthetic:tiny-llava", "--recipe", str(tmp_path / "strict.yaml"), "--out", str(tmp_path / "b")]
    )

    assert code == 3
    assert "retention" in capsys.readouterr().err
