"""A benchmark that measured nothing says so, and does not end like one that did."""

import subprocess
import sys


def test_photographs_that_are_not_there_are_an_error():
    command = [sys.executable, "-m", "benchmarks.real_photos", "bundle", "nowhere"]

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith("real_photos: there is no folder nowhere")
