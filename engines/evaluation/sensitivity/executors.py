"""Who does a list of tasks: processes of this machine, or the machines of a Ray cluster; knows no task.

A worker is opened once in each process, and then given one task after another. Results come as they are finished.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from edge_runtime.errors import BuildError
from edge_runtime.signals import deaf_children

Task = TypeVar("Task")
Done = TypeVar("Done")
OpenWorker = Callable[[], Callable[[Task], Done]]  # pickled, as tasks and results are

_CONNECT_S = 10

_workers: list[Callable[[Any], Any]] = []  # one, in a process of the pool


def in_processes(open_worker: OpenWorker[Task, Done], tasks: Sequence[Task], processes: int) -> Iterator[Done]:
    """Results of ``tasks`` from ``processes`` processes, each on one thread.

    Raises:
        BuildError: a process was killed.
        Exception: what a worker raised.
    """
    context = multiprocessing.get_context("spawn")  # ONNX Runtime's threads don't survive a fork
    pool = ProcessPoolExecutor(min(processes, len(tasks)), context, _start, (open_worker,))
    try:
        with deaf_children():
            running = [pool.submit(_work, task) for task in tasks]
        for future in as_completed(running):
            yield future.result()
    except BrokenProcessPool as error:
        raise BuildError(
            "a process that measured was killed, perhaps as memory ran out; what was measured is kept: run the "
            "same command again, with fewer --processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def on_ray(open_worker: OpenWorker[Task, Done], tasks: Sequence[Task], address: str) -> Iterator[Done]:
    """Results of ``tasks`` from the Ray cluster at ``address``, a worker a CPU; files are read where it runs.

    Raises:
        BuildError: Ray is not installed, or there is no such cluster.
        Exception: what a worker raised.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise BuildError(
            "Ray is not installed; pip install '.[ray]' in a checkout, here and on every machine"
        ) from error
    try:
        if ":" in address:  # Ray itself tries for minutes
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        ray.init(address, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise BuildError(f"no Ray cluster answers at {address!r} ({error}); start one: ray start --head") from error
    try:
        actor = ray.remote(num_cpus=1)(_RayWorker)
        count = min(int(ray.cluster_resources().get("CPU", 1)), len(tasks))
        pool = ActorPool([actor.remote(open_worker) for _ in range(count)])
        yield from pool.map_unordered(lambda worker, task: worker.work.remote(task), list(tasks))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise BuildError(f"a worker on the Ray cluster was lost: {error}; what was measured is kept") from error
    finally:
        ray.shutdown()


class _RayWorker:
    def __init__(self, open_worker: OpenWorker[Any, Any]) -> None:
        self._worker = open_worker()

    def work(self, task: object) -> object:
        return self._worker(task)


def _start(open_worker: OpenWorker[Any, Any]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    _workers.append(open_worker())


def _work(task: Any) -> Any:
    [worker] = _workers
    return worker(task)
