"""The devices that are flown are those that are planned for, with time for a report, and with memory that is there."""

import pytest
import yaml

from edge_runtime.memory.plan import parse_bytes
from engines.families.synthetic import open_checkpoint
from engines.planning.devices import known_devices, load_device
from engines.planning.latency_model import predict
from engines.planning.plan import plan_bundle
from engines.quantize.recipe import load_recipe
from tests.ros2_ws.conftest import PACKAGE

FLOWN = PACKAGE / "config" / "devices"
LARGEST_MODEL = {
    "orin-nano-8gb": "llava-1.5-7b",
    "orin-nx-8gb": "llava-1.5-7b",
    "orin-nx-16gb": "llava-1.5-13b",
    "agx-orin-32gb": "llava-1.5-13b",
    "agx-orin-64gb": "llava-1.5-13b",
}


def parameters_of(device):
    return yaml.safe_load((FLOWN / f"{device}.yaml").read_text())["/**"]["ros__parameters"]


def test_every_orin_that_is_planned_for_is_flown_and_no_other():
    planned = {name for name in known_devices() if "orin" in name}
    assert {path.stem for path in FLOWN.glob("*orin*.yaml")} == planned == set(LARGEST_MODEL)


@pytest.mark.parametrize("device", LARGEST_MODEL)
def test_the_budget_is_no_more_than_the_plan_leaves_to_the_runtime(device):
    assert parse_bytes(parameters_of(device)["budget"]) <= load_device(device).budget_bytes


@pytest.mark.parametrize(("device", "model"), LARGEST_MODEL.items())
def test_the_deadline_gives_the_largest_model_one_and_a_half_times_the_predicted_report(device, model):
    profile = load_device(device)
    plan = plan_bundle(open_checkpoint(f"synthetic:{model}"), load_recipe("asymmetric-int4"), profile.target, None)
    assert parameters_of(device)["deadline_s"] >= 1.5 * predict(plan, profile).report_s
