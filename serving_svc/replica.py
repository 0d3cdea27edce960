"""A replica: one process that Ray Serve places, with one version in it.

Ray Serve starts, counts, watches and heals replicas. Requests do not pass through it: they come
over the replica's own port, which it reports to the serving service.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, dataclass, field
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
from serving_svc.replica_server import ReplicaServer
from serving_svc.runtimes import RuntimeCatalog, Scorer, make_runtime, warmed
from serving_svc.runtimes.trial import try_out

REPORT_TIMEOUT_S = 2.0
FIRST_RETRY_S = 0.2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What a replica is told; plain values, and no secret: the token comes from its machine.

    Attributes:
        peers: Addresses of the registry and of serving.
        host: Address that its data plane listens on.
        tls: Paths of `tls_cert`, `tls_key` and `tls_ca`; empty without TLS.
        code_models: Models whose own code may run.
        runtime_config: Settings of the runtime.
    """

    model_version: str
    runtime: str
    artifact: str
    inputs: int
    outputs: int
    home: str
    peers: dict[str, str]
    host: str = "127.0.0.1"
    tls: dict[str, str] = field(default_factory=dict)
    code_models: list[str] = field(default_factory=list)
    runtime_config: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def settings(self) -> ServiceSettings:
        """Settings of the replica's process."""
        given: dict[str, Any] = {"home": self.home, "peers": self.peers, **self.tls}
        return ServiceSettings(service="serving", **given)


class Reporter:
    """Says every few seconds that the replica lives, in a thread of its own."""

    def __init__(
        self, server: ReplicaServer, config: ReplicaConfig, address: str, load_ms: int
    ) -> None:
        settings = config.settings()
        self.replica_id = uuid7_str()
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
                ),
                timeout=REPORT_TIMEOUT_S,
            )
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
    """The class that Ray Serve deploys: loads its version, then opens its port, then reports.

    Raises, when it is made, what keeps the version from being served.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = ReplicaConfig(**config)
        settings = self._config.settings()
        begun = time.monotonic()
        scorer = load_model(self._config, settings)
        load_ms = round((time.monotonic() - begun) * 1000)
        batcher = MicroBatcher(scorer, self._config.inputs, self._config.outputs)
        self._server = ReplicaServer(batcher, settings, self._config.host)
        self.address = self._server.start()
        self._reporter = Reporter(self._server, self._config, self.address, load_ms)
        self._reporter.start()
        self._stopped = False

    async def __call__(self) -> str:
        """The address of its data plane; requests do not come this way."""
        return self.address

    def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica whose data plane has ended."""
        if not self._server.alive:
            raise RuntimeError("the data plane has ended")

    def stop(self) -> None:
        """Drain: say so, finish what is under way, close. Further calls do nothing."""
        if not self._stopped:
            self._stopped = True
            self._reporter.stop()
            self._server.stop()

    def __del__(self) -> None:
        # Ray Serve's word for a graceful shutdown; a replica that could not start has nothing.
        if hasattr(self, "_stopped"):
            self.stop()


def load_model(config: ReplicaConfig, settings: ServiceSettings) -> Scorer:
    """Fetch, verify, load and warm up the model of a replica.

    Raises FailedPrecondition (`MODEL_CODE_NOT_ALLOWED`) once more than when the version was asked
    for, as the operator may have taken the permission back since.
    """
    facts = RuntimeCatalog().facts(config.runtime)
    check_code(config.model_version, facts, config.code_models)
    with open_channel(settings.peers["registry"], settings) as channel:
        path = fetch(channel, config.artifact, Path(config.home) / "cache" / "models")
    shape = (config.inputs, config.outputs)
    if not facts.runs_code:
        try_out(config.runtime, path, *shape, config.runtime_config)
    scorer = make_runtime(config.runtime, config.runtime_config).load(path, *shape)
    return warmed(scorer, *shape)
