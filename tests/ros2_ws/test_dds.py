"""The node understands whoever speaks DDS, and is understood: no ROS code is needed on the other side."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")
pytest.importorskip("cyclonedds", reason="no independent DDS: pip install '.[dev]'")

from edge_runtime.reports.report import InspectionReport
from tests.fakes import CRACK, ScriptedInspector
from tests.ros2_ws.rig import WAIT_S
from tests.ros2_ws.test_node import scripted

# Fast DDS, kept to this machine, does not listen to the multicast by which strangers are found.
ON_THIS_MACHINE = (
    "<Domain><Discovery><ParticipantIndex>auto</ParticipantIndex>"
    '<Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain>'
)


def test_pictures_of_an_independent_dds_are_inspected_and_the_reports_read_back_by_it(rig):
    inspector = ScriptedInspector([InspectionReport(findings=(CRACK,), tokens=4)])
    rig.fly(scripted(inspector))
    command = [sys.executable, "-m", "tests.ros2_ws.dds", os.environ["ROS_DOMAIN_ID"]]
    environment = dict(os.environ, CYCLONEDDS_URI=ON_THIS_MACHINE)
    stranger = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S + 30)
    assert stranger.returncode == 0, stranger.stderr
    report = json.loads(stranger.stdout)
    assert report["header"]["frame_id"] == "raw_dds"
    assert report["header"]["stamp"]["nanosec"] == 5
    (finding,) = report["findings"]
    assert (finding["defect_class"], finding["description"]) == (CRACK.defect_class, CRACK.description)
    assert finding["region"] == vars(CRACK.region)
    assert finding["track_id"] == 1
    assert [(fix["latitude"], fix["altitude"]) for fix in report["position"]] == [(47.5, 400.0)]
    assert set(inspector.frame_shapes) == {(48, 64, 3)}
