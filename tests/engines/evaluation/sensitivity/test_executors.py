"""Who does tasks: processes of this machine, or machines of a Ray cluster, and what becomes of a task that fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import pytest

from edge_runtime.errors import BuildError, CalibrationError
from engines.evaluation.sensitivity.executors import in_processes, on_ray

TASKS = [1, 2, 3, 4]


def open_adder(addend: int) -> Callable[[int], tuple[int, int]]:
    return lambda task: (task + addend, os.getpid())


def open_refuser() -> Callable[[int], NoReturn]:
    def refuse(task: int) -> NoReturn:
        raise CalibrationError(f"{task} is not finite")

    return refuse


def open_suicide() -> Callable[[int], NoReturn]:
    return lambda task: os._exit(task)


def test_processes_do_every_task_once_and_not_here():
    found = list(in_processes(partial(open_adder, 10), TASKS, processes=2))

    assert sorted(value for value, _ in found) == [11, 12, 13, 14]
    assert os.getpid() not in {process for _, process in found}


def test_what_a_worker_raises_arrives():
    with pytest.raises(CalibrationError, match="is not finite"):
        list(in_processes(open_refuser, TASKS, processes=1))


def test_a_worker_that_is_killed_is_told():
    with pytest.raises(BuildError, match=r"a process that measured was killed.*--processes"):
        list(in_processes(open_suicide, TASKS, processes=1))


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, as two machines would be."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="pip install '.[ray]'")
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    found = cluster_utils.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    found.add_node(**node)
    yield found.address
    found.shutdown()


def test_a_cluster_does_every_task_once_with_a_worker_a_cpu(cluster):
    found = list(on_ray(partial(open_adder, 10), TASKS, cluster))

    assert sorted(value for value, _ in found) == [11, 12, 13, 14]
    assert len({process for _, process in found}) == 2


def test_what_a_worker_of_a_cluster_raises_arrives(cluster):
    with pytest.raises(CalibrationError, match="is not finite"):
        list(on_ray(open_refuser, TASKS, cluster))


def test_a_cluster_worker_that_is_killed_is_told(cluster):
    with pytest.raises(BuildError, match="a worker on the Ray cluster was lost"):
        list(on_ray(open_suicide, TASKS, cluster))


def test_where_no_cluster_answers_is_told():
    pytest.importorskip("ray", reason="pip install '.[ray]'")

    with pytest.raises(BuildError, match="no Ray cluster answers"):
        list(on_ray(open_refuser, TASKS, "127.0.0.1:1"))
