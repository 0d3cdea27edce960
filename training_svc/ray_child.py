"""The child's side: the one file that imports Ray. Tasks come through a pipe, one at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection

from training_svc.fitting import Task, Trouble, fit_here
from training_svc.trainers import Fitted

NAMESPACE = "modelyard-training"
RETRIES_AFTER_LOSS = 3


def serve(pipe: Connection, address: str) -> None:
    """Connects to Ray where there is an address, says so, and does tasks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if address:
        _connect(address)
    try:
        pipe.send("ready")
        while True:
            task: Task = pipe.recv()
            pipe.send(_fit_on_ray(task) if address else fit_here(task))
    except (EOFError, OSError):
        os._exit(0)  # nobody is there to hear of anything


def _connect(address: str) -> None:
    import ray

    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)


def _fit_on_ray(task: Task) -> Fitted | Trouble:
    import ray

    remote = ray.remote(num_cpus=task.cpus, num_gpus=task.gpus, max_retries=RETRIES_AFTER_LOSS)(
        fit_here
    )
    try:
        # Put once: a retried task reads the same copy.
        fitted: Fitted | Trouble = ray.get(remote.remote(ray.put(task)))
    except (ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError):
        return Trouble("WORKER_LOST", "the training worker was lost", passing=True)
    except ray.exceptions.OutOfMemoryError:
        return Trouble("OUT_OF_MEMORY", "training needs more memory than the node has")
    except ray.exceptions.RayError as error:
        kind = type(error).__name__
        return Trouble("RAY_UNAVAILABLE", f"Ray failed with {kind}", passing=True)
    return fitted


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
