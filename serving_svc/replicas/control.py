"""The parent's side: starts the child, asks it, starts another one when it is gone."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service_kit.errors import Unavailable
from serving_svc.domain import AppState, AppStatus, Deployment, ModelVersion
from serving_svc.replica_config import ReplicaConfig

CHILD = "serving_svc.replicas.serve_child"
START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 30.0
RESTART_PAUSE_S = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What replicas are told, beside their version.

    Attributes:
        ray_address: `host:port` of Ray's GCS.
        home: Data directory of the suite; the service key is read there.
        peers: Addresses of the registry and of serving.
        host: Address that replicas listen on.
        cpus: CPUs that Ray sets aside for a replica; a share, for replicas are idle much.
        gpus: GPUs that Ray sets aside for a replica, for example a quarter of one, where its
            deployment does not say.
        tls: Paths of certificates, or empty.
        code_models: Models whose own code may run.
        runtimes: Settings of runtimes by name.
    """

    ray_address: str
    home: str
    peers: Mapping[str, str]
    host: str = "127.0.0.1"
    cpus: float = 0.1
    gpus: float = 0.0
    tls: Mapping[str, str] = field(default_factory=dict)
    code_models: tuple[str, ...] = ()
    runtimes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def config_of(self, version: ModelVersion) -> ReplicaConfig:
        """What a replica of a version is told."""
        return ReplicaConfig(
            model_version=version.name,
            runtime=version.runtime,
            artifact=version.artifact,
            inputs=version.inputs,
            outputs=version.outputs,
            home=self.home,
            peers=dict(self.peers),
            host=self.host,
            tls=dict(self.tls),
            code_models=list(self.code_models),
            runtime_config=dict(self.runtimes.get(version.runtime, {})),
        )


class RayReplicas:
    """Ray Serve's applications: one for each version of an endpoint.

    One application a version, because a change of an application restarts its ingress: so loading
    a challenger never touches the champion.

    Attributes:
        connected: Called, on a thread of ours, each time that Ray is connected.
    """

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        self._child: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self.connected: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to connect, on a thread of its own."""
        # The child asks to die with the thread that started it: one that lasts as long as we do.
        self._keeper = threading.Thread(target=self._keep, name="ray-child", daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        """End the child; replicas go on."""
        self._closing.set()
        child = self._child
        if child is not None:
            child.kill()
            child.wait(timeout=2.0)

    def ping(self) -> None:
        """Raises Unavailable (`RAY_UNAVAILABLE`) while Ray is not connected."""
        if not self._ready.is_set():
            raise Unavailable("RAY_UNAVAILABLE", "Ray is not connected")

    def apply(self, deployment: Deployment) -> None:
        """Have a version run with so many replicas; returns once Ray Serve has it on record."""
        config = self._settings.config_of(deployment.version)
        self._ask(
            op="apply",
            app=deployment.app,
            replicas=deployment.replicas,
            cpus=self._settings.cpus,
            gpus=self._settings.gpus if deployment.gpus is None else deployment.gpus,
            config=config.to_json(),
        )

    def scale(self, app: str, replicas: int) -> None:
        """Have an application run with so many replicas."""
        self._ask(op="scale", app=app, replicas=replicas)

    def remove(self, app: str) -> None:
        """Have an application drain and stop."""
        self._ask(op="remove", app=app)

    def status(self) -> dict[str, AppStatus]:
        """All applications."""
        answer = self._ask(op="status")
        return {
            app: AppStatus(
                AppState(status["state"]), status["message"], status["replicas"], status["up"]
            )
            for app, status in answer["apps"].items()
        }

    def _ask(self, **request: Any) -> dict[str, Any]:
        with self._lock:
            child = self._child
            self.ping()
            if child is None or child.stdin is None:
                raise Unavailable("RAY_UNAVAILABLE", "Ray is not connected")
            try:
                child.stdin.write(json.dumps(request) + "\n")
                child.stdin.flush()
                answer: dict[str, Any] = json.loads(self._answers.get(timeout=ANSWER_TIMEOUT_S))
            except (OSError, ValueError, queue.Empty) as error:
                # An answer that comes late would be taken for that of the next question.
                child.kill()
                self._ready.clear()
                raise Unavailable("RAY_UNAVAILABLE", "Ray does not answer") from error
        if "error" in answer:
            raise Unavailable("RAY_REFUSED", answer["error"])
        return answer

    def _keep(self) -> None:
        while not self._closing.is_set():
            try:
                self._run_child()
            except OSError:
                _log.exception("the child for Ray can't be started")
            self._ready.clear()
            self._closing.wait(RESTART_PAUSE_S)

    def _run_child(self) -> None:
        command = [sys.executable, "-m", CHILD, self._settings.ray_address, str(os.getpid())]
        with subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as child:
            assert child.stdout is not None
            answers: queue.SimpleQueue[str] = queue.SimpleQueue()
            self._child, self._answers = child, answers
            if self._closing.is_set():
                child.kill()
            begun = time.monotonic()
            timer = threading.Timer(START_TIMEOUT_S, child.kill)
            timer.start()
            if child.stdout.readline():
                timer.cancel()
                self._ready.set()
                self.connected()
                _log.info("Ray is connected", extra={"seconds": time.monotonic() - begun})
            for line in child.stdout:
                answers.put(line)
            timer.cancel()
            # Wakes whoever waits for an answer.
            answers.put("")
        if not self._closing.is_set():
            _log.warning("the child for Ray ended", extra={"status": child.returncode})
