"""Training on Ray: the one file that imports it here."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import DeadlineExceeded, Unavailable
from training_svc.domain.pipelines import TrainerSpec
from training_svc.trainers import Fitted

NAMESPACE = "modelyard-training"
FIT_TIMEOUT = 3600.0
RETRIES_AFTER_LOSS = 3


class RayJobs:
    """Fits trainers in Ray workers; a lost worker or node costs a retry, not the run."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connecting = threading.Lock()

    def connect(self) -> None:
        """Connects to the cluster unless that is done."""
        import ray

        with self._connecting:
            if ray.is_initialized():
                return
            try:
                ray.init(
                    address=self._address or "auto",
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    configure_logging=False,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise Unavailable("RAY_UNAVAILABLE", "Ray can't be reached") from error

    def fit(
        self,
        spec: TrainerSpec,
        inputs: NDArray[np.float32],
        labels: NDArray[np.float64],
        names: Sequence[str],
        seed: int,
    ) -> Fitted:
        """Fits a trainer on n x inputs rows in a worker that has what it asks for."""
        import ray

        self.connect()
        task = ray.remote(
            num_cpus=spec.cpus,
            num_gpus=spec.gpus,
            max_retries=RETRIES_AFTER_LOSS,
        )(fit_here)
        # Put once: a retried task reads the same copy.
        shared = ray.put((inputs, labels))
        answer = task.remote(
            spec.trainer, dict(spec.config), shared, list(names), seed, max(1, int(spec.cpus))
        )
        try:
            fitted: Fitted = ray.get(answer, timeout=FIT_TIMEOUT)
        except ray.exceptions.GetTimeoutError as error:
            ray.cancel(answer, force=True)
            raise DeadlineExceeded("TRAINING_TIMEOUT", "training took over an hour") from error
        except (ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError) as error:
            raise Unavailable("WORKER_LOST", "the training worker was lost") from error
        return fitted


def fit_here(
    trainer: str,
    config: dict[str, object],
    data: tuple[NDArray[np.float32], NDArray[np.float64]],
    names: list[str],
    seed: int,
    threads: int,
) -> Fitted:
    """Fits a trainer plugin in this process."""
    from training_svc.plugins import make_trainer

    inputs, labels = data
    return make_trainer(trainer, config).fit(inputs, labels, names, seed, threads)
