"""The demo as a person meets it: one command, and Ctrl-C when they have seen enough."""

import signal
import subprocess
import sys

import psutil
import pytest

pytest.importorskip("inspection_msgs.msg", reason="no ROS 2: run ros2_ws/setup_ros.py, then tests by ros2_ws/run")

from edge_runtime.flight.log import load_flight

pytestmark = pytest.mark.usefixtures("ros")


def test_ctrl_c_lands_a_flight_with_its_log_and_page_whole_and_leaves_no_process(tiny_bundle, tmp_path):
    out = tmp_path / "flight"
    command = [sys.executable, "-m", "inspection_ros.demo", str(tiny_bundle), "--frames", "500", "--out", str(out)]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "frame 0: " in demo.stdout.readline()
        flying = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
    finally:
        demo.kill()

    assert demo.returncode == 130, errors
    assert errors.splitlines()[-1] == "demo: interrupted"
    assert "Traceback" not in errors
    assert len(flying) == 2
    assert not any(process.is_running() for process in flying)
    flight = load_flight(tmp_path / "flight.jsonl")
    assert flight.records
    assert flight.end is not None
    assert (tmp_path / "flight.html").stat().st_size > 1000
