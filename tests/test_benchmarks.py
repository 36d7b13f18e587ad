"""A benchmark that measured nothing says so, and does not end like one that did."""

import subprocess
import sys

from benchmarks.confined import run_confined


def test_photographs_that_are_not_there_are_an_error():
    command = [sys.executable, "-m", "benchmarks.real_photos", "bundle", "nowhere"]

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith("real_photos: there is no folder nowhere")


def test_a_confined_command_is_counted_with_all_its_processes():
    holding = "import time; held = bytes(range(256)) * (200 << 12); time.sleep(1)"  # 200 MiB, written
    parent = f"import subprocess, sys; print('two', flush=True); subprocess.run([sys.executable, '-c', {holding!r}])"

    ended = run_confined([sys.executable, "-c", f"{parent}; sys.exit(3)"], 10**9)

    assert (ended.code, ended.output) == (3, "two\n")
    assert 210_000_000 < ended.peak_bytes < 300_000_000
    assert ended.seconds > 1


def test_a_proof_says_what_each_limit_came_to_and_leaves_nothing(tmp_path):
    out = tmp_path / "bundle"
    options = ["--recipe", "asymmetric-int4", "--images", "", "--budget", "1GB", "--context", "600", "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.prove_13b", "--checkpoint", "synthetic:tiny-llava", *options]

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    lines = ended.stdout.splitlines()
    assert sum(line.startswith("passed: ") for line in lines) >= 3, ended.stdout + ended.stderr
    assert any(line.startswith(("passed: the plan is", "FAILED: the plan is")) for line in lines)
    assert any(line.startswith("a valid report of") for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_proof_whose_bundle_does_not_fit_ends_as_refused(tmp_path):
    options = ["--recipe", "asymmetric-int4", "--images", "", "--budget", "1MB", "--out", str(tmp_path / "bundle")]
    command = [sys.executable, "-m", "benchmarks.prove_13b", "--checkpoint", "synthetic:tiny-llava", *options]

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 4
    assert "more than the budget of 1.00 MB" in ended.stderr
