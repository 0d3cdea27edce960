"""A replica: one process with one version in it.

Ray Serve starts, counts, watches and heals replicas, each through an actor of its own (see
`serving_svc.replicas.actor`). Requests do not pass through it: they come over the replica's own
port, which it reports to the serving service. So a replica whose actor has ended without stopping
it goes on as an orphan, until serving says that replicas with actors have taken its place.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc

from service_kit.channels import calling, open_channel
from service_kit.errors import DomainError
from service_kit.ids import uuid7_str
from service_kit.settings import ServiceSettings
from serving_svc.artifacts import fetch
from serving_svc.batching import MicroBatcher
from serving_svc.domain import check_code
from serving_svc.replica_config import ReplicaConfig
from serving_svc.replica_server import LINGER_S, ReplicaServer
from serving_svc.runtimes import RuntimeCatalog, Scorer, make_runtime, warmed
from serving_svc.runtimes.trial import try_out

REPORT_TIMEOUT_S = 2.0
FIRST_RETRY_S = 0.2
#: Seconds after which an orphan ends that neither serving nor any gateway speaks with.
ABANDONED_S = 600.0
#: Seconds that an orphan goes on answering after it has said that it drains: who takes its place
#: has just come, and gateways may be on their way to it.
ORPHAN_LINGER_S = 3.0
_log = logging.getLogger(__name__)


class Reporter:
    """Says every few seconds that the replica lives, in a thread of its own.

    Attributes:
        orphaned: Whether the replica's actor has ended.
        relieved: Set when serving says that it needs an orphan no longer.
        heard: Monotonic time of serving's last answer.
    """

    def __init__(
        self, server: ReplicaServer, config: ReplicaConfig, address: str, load_ms: int
    ) -> None:
        settings = config.settings()
        self.replica_id = uuid7_str()
        self.orphaned = False
        self.relieved = threading.Event()
        self.heard = time.monotonic()
        self._server = server
        self._version = config.model_version
        self._runtime, self._load_ms = config.runtime, load_ms
        self._address = address
        self._channel = open_channel(settings.peers["serving"], settings)
        self._stub = dataplane_pb2_grpc.DataPlaneServiceStub(self._channel)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Say that the replica drains, and nothing after that."""
        self._stopping.set()
        self._thread.join(timeout=REPORT_TIMEOUT_S + 0.5)
        try:
            self.report(draining=True)
        except DomainError as error:
            _log.warning("can't report that it drains", extra={"reason": error.reason})
        self._channel.close()

    def report(self, *, draining: bool = False) -> float:
        """Report once; gives the seconds until the next time. Raises what serving raises."""
        with calling("serving"):
            answer = self._stub.ReportReplica(
                dataplane_pb2.ReportReplicaRequest(
                    replica_id=self.replica_id,
                    model_version=self._version,
                    address=self._address,
                    in_flight_rows=self._server.in_flight_rows,
                    queue_us=self._server.take_queue_us(),
                    draining=draining,
                    runtime=self._runtime,
                    load_ms=self._load_ms,
                    orphaned=self.orphaned,
                ),
                timeout=REPORT_TIMEOUT_S,
            )
        self.heard = time.monotonic()
        if answer.drain:
            self.relieved.set()
        return max(0.05, float(answer.interval_ms) / 1000)

    def _run(self) -> None:
        pause = FIRST_RETRY_S
        while not self._stopping.is_set():
            try:
                pause = self.report()
            except DomainError as error:
                pause = min(pause * 2, 2.0)
                _log.debug("can't report", extra={"reason": error.reason})
            self._stopping.wait(pause)


class Replica:
    """Loads its version, then opens its port, then reports.

    Raises, when it is made, what keeps the version from being served.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = ReplicaConfig(**config)
        settings = self._config.settings()
        begun = time.monotonic()
        # Not tried out first: a library that crashes here takes nothing along.
        scorer = load_model(self._config, settings, trial=False)
        load_ms = round((time.monotonic() - begun) * 1000)
        apart = RuntimeCatalog().facts(self._config.runtime).runs_code
        batcher = MicroBatcher(scorer, self._config.inputs, self._config.outputs, inline=not apart)
        self._server = ReplicaServer(batcher, settings, self._config.host)
        self.address = self._server.start()
        self._reporter = Reporter(self._server, self._config, self.address, load_ms)
        self._reporter.start()
        self._stopped = False

    @property
    def alive(self) -> bool:
        """Whether its data plane serves."""
        return self._server.alive

    @property
    def needed(self) -> bool:
        """False for an orphan that serving has relieved, or that nobody speaks with any more."""
        reporter = self._reporter
        if not reporter.orphaned:
            return True
        silence = time.monotonic() - reporter.heard
        abandoned = silence > ABANDONED_S and not self._server.callers
        return not (abandoned or reporter.relieved.is_set())

    def orphan(self) -> None:
        """Its actor has ended: say so from now on."""
        _log.warning("the actor has ended, the replica goes on without it")
        self._reporter.orphaned = True

    def stop(self) -> None:
        """Drain: say so, finish what is under way, close. Further calls do nothing."""
        if not self._stopped:
            self._stopped = True
            self._reporter.stop()
            self._server.stop(ORPHAN_LINGER_S if self._reporter.orphaned else LINGER_S)


def load_model(config: ReplicaConfig, settings: ServiceSettings, *, trial: bool = True) -> Scorer:
    """Fetch, verify, load and warm up the model of a replica.

    Args:
        trial: Whether to load it in another process first, for a library may crash on it.

    Raises FailedPrecondition (`MODEL_CODE_NOT_ALLOWED`) once more than when the version was asked
    for, as the operator may have taken the permission back since.
    """
    # Forests are compiled on their first load on a machine (`serving_svc.runtimes.trees`).
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(config.home) / "cache" / "numba"))
    facts = RuntimeCatalog().facts(config.runtime)
    check_code(config.model_version, facts, config.code_models)
    with open_channel(settings.peers["registry"], settings) as channel:
        path = fetch(channel, config.artifact, Path(config.home) / "cache" / "models")
    shape = (config.inputs, config.outputs)
    if trial and not facts.runs_code:
        try_out(config.runtime, path, *shape, config.runtime_config)
    scorer = make_runtime(config.runtime, config.runtime_config).load(path, *shape)
    return warmed(scorer, *shape)
