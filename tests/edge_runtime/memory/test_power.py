"""Power and its mode are read from a tree of files as a Jetson Orin has it; elsewhere nothing is claimed."""

import pytest

from edge_runtime.memory.power import Power, read_power

SENSOR = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
ORIN_NX = {  # as on an Orin NX with JetPack 6; written by hand after NVIDIA's documentation
    f"{SENSOR}/in1_label": "VDD_IN\n",
    f"{SENSOR}/in1_input": "5056\n",
    f"{SENSOR}/curr1_input": "2768\n",
    f"{SENSOR}/in2_label": "VDD_CPU_GPU_CV\n",
    f"{SENSOR}/in2_input": "5048\n",
    f"{SENSOR}/curr2_input": "824\n",
    f"{SENSOR}/in4_label": "Sum of shunt voltages\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=15W >\n",
}


@pytest.fixture
def grow(tmp_path):
    def grown(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return grown


def without(*names):
    return {name: text for name, text in ORIN_NX.items() if not name.endswith(names)}


def test_the_module_s_power_and_the_mode_s_name_are_read(grow):
    assert read_power(grow(ORIN_NX)) == Power(watts=pytest.approx(13.995, abs=0.001), mode="15W")


def test_the_driver_of_older_systems_is_found(grow):
    old = {name.replace("ina3221/", "ina3221x/"): text for name, text in ORIN_NX.items()}
    assert read_power(grow(old)).watts == pytest.approx(13.995, abs=0.001)


def test_a_mode_without_a_name_is_told_by_its_number(grow):
    assert read_power(grow(without("nvpmodel.conf"))).mode == "2"
    assert read_power(grow({**ORIN_NX, "var/lib/nvpmodel/status": "pmode:0007\n"})).mode == "7"


@pytest.mark.parametrize("missing", ["in1_label", "in1_input", "curr1_input"])
def test_power_that_cannot_be_read_is_not_claimed(grow, missing):
    assert read_power(grow(without(missing))) == Power(mode="15W")


def test_a_machine_that_tells_nothing_claims_nothing(tmp_path):
    assert read_power(tmp_path) == Power()


def test_nonsense_in_the_files_is_no_power(grow):
    garbled = {**ORIN_NX, f"{SENSOR}/in1_input": "nothing\n", "var/lib/nvpmodel/status": "?\n"}
    assert read_power(grow(garbled)) == Power()
