"""What `/metrics` says of the replicas, read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving_svc.domain import Replica


class ReplicaCollector(Collector):
    """One sample for each replica that is up; those of lost ones are gone with them."""

    def __init__(self, replicas: Callable[[], Iterable[Replica]]) -> None:
        self._replicas = replicas

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics of this moment."""
        loading = GaugeMetricFamily(
            "modelyard_replica_load_seconds",
            "Time to fetch, load and warm up the model of a replica, by its runtime",
            labels=("model_version", "runtime", "replica"),
        )
        orphaned = GaugeMetricFamily(
            "modelyard_replica_orphaned",
            "1 for a replica that goes on without its actor, until Ray has placed another one",
            labels=("model_version", "replica"),
        )
        for each in self._replicas():
            labels = (each.model_version, each.runtime, each.replica_id)
            loading.add_metric(labels, each.load_ms / 1000)
            if not each.draining:
                orphaned.add_metric((each.model_version, each.replica_id), float(each.orphaned))
        yield loading
        yield orphaned
