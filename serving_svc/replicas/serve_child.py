"""The child's side: the one file that imports Ray. One JSON request a line in, one answer out."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from itertools import chain
from typing import Any, TextIO

from service_kit.process import die_with_parent
from serving_svc.replicas.actor import ReplicaActor

NAMESPACE = "modelyard-serving"
#: Tries of a replica's constructor before its version counts as one that can't be loaded.
CONSTRUCTOR_TRIES = 2
HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 10.0
DRAIN_TIMEOUT_S = 20.0
SCALE_TIMEOUT_S = 10.0
LOOK_S = 0.2

_STATES = {
    "NOT_STARTED": "STARTING",
    "DEPLOYING": "STARTING",
    "RUNNING": "RUNNING",
    # Short of replicas, which Ray Serve replaces by itself.
    "UNHEALTHY": "RUNNING",
    "DEPLOY_FAILED": "FAILED",
    "DELETING": "STOPPING",
}


def connect(address: str) -> None:
    """Join the cluster and have Ray Serve's controller run, without its proxies."""
    import ray
    from ray import serve

    if ":" in address:
        head = follow(address)
        threading.Thread(target=end_with, args=(head, address), name="head", daemon=True).start()
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, ignore_reinit_error=True)
    serve.start(proxy_location="Disabled")


def follow(address: str) -> socket.socket:
    """A connection to Ray's head, once it listens."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=5.0)
        except OSError:
            time.sleep(LOOK_S)


def end_with(head: socket.socket, address: str) -> None:
    """End this process when Ray's head does.

    Ray itself waits for it to come again, for a minute and in vain: the next head knows nothing
    of what this process has joined.
    """
    host, _, port = address.rpartition(":")
    try:
        while True:
            with head:
                head.settimeout(None)
                while head.recv(4_096):
                    pass
            # It hangs up on who says nothing; but then it is there to be called again.
            head = socket.create_connection((host, int(port)), timeout=5.0)
    except OSError:
        os._exit(1)


def apply(request: dict[str, Any]) -> dict[str, Any]:
    """Deploy a version as an application with one deployment, both of one name.

    Applied again, it would be another code version, and Ray Serve would restart every replica; so
    the count of replicas changes by `scale` alone.
    """
    from ray import serve

    deployment = serve.deployment(ReplicaActor).options(**options_of(request))
    target = serve.RunTarget(
        target=deployment.bind(request["config"]),
        name=request["app"],
        route_prefix=None,
        external_scaler_enabled=True,
    )
    serve.run_many([target], wait_for_applications_running=False)
    return {}


def options_of(request: dict[str, Any]) -> dict[str, Any]:
    """Ray Serve's options of the deployment that a request asks for."""
    return {
        "name": request["app"],
        "num_replicas": request["replicas"],
        "ray_actor_options": {"num_cpus": request["cpus"], "num_gpus": request["gpus"]},
        "max_constructor_retry_count": CONSTRUCTOR_TRIES,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": DRAIN_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": 0.1,
    }


def scale(request: dict[str, Any]) -> dict[str, Any]:
    """Have an application run with so many replicas; those that stay are left alone."""
    import ray
    from ray.serve._private.common import DeploymentID
    from ray.serve.context import _get_global_client

    # Ray Serve offers this over its dashboard only, which the suite does not run.
    client = _get_global_client()
    app = request["app"]
    asked = client._controller.update_deployment_replicas.remote(  # noqa: SLF001
        DeploymentID(name=app, app_name=app), request["replicas"]
    )
    ray.get(asked, timeout=SCALE_TIMEOUT_S)
    return {}


def remove(request: dict[str, Any]) -> dict[str, Any]:
    """Delete an application; its replicas drain first."""
    from ray import serve

    serve.delete(request["app"], _blocking=False)
    return {}


def status(_: dict[str, Any]) -> dict[str, Any]:
    """Where the applications stand."""
    from ray import serve

    apps = {}
    for name, app in serve.status().applications.items():
        messages = [app.message, *(each.message for each in app.deployments.values())]
        message = next((text for text in reversed(messages) if text), "")
        counts: Counter[str] = Counter()
        for each in app.deployments.values():
            counts.update({str(getattr(k, "value", k)): n for k, n in each.replica_states.items()})
        apps[name] = {
            "state": _STATES.get(str(app.status.value), "STARTING"),
            "message": message,
            "replicas": counts.total() - counts["STOPPING"],
            "up": counts["RUNNING"],
        }
    return {"apps": apps}


_OPERATIONS = {"apply": apply, "scale": scale, "remove": remove, "status": status}


def answer(line: str) -> dict[str, Any]:
    """Do what a line asks for."""
    request = json.loads(line)
    try:
        return _OPERATIONS[request["op"]](request)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:1000]}


def main(address: str, requests: TextIO, answers: TextIO) -> None:
    """Connect, say so, and answer until there are no more requests."""
    connect(address)
    for text in chain([{"ready": True}], map(answer, requests)):
        answers.write(json.dumps(text) + "\n")
        answers.flush()


def _own_stdout() -> TextIO:
    # Whatever Ray prints goes to stderr; stdout is ours alone.
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return kept


def _bind_to(parent: int) -> None:
    die_with_parent(signal.SIGKILL)
    # It may have ended before we asked.
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    _bind_to(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(sys.argv[1], sys.stdin, _own_stdout())
