"""What is here runs inside ``tests/simulated_jetson/run``, which ``make test`` calls; elsewhere there is no pycuda."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("pycuda") else ["test_*.py"]
