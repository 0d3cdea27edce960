"""`python -m gateway` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service_kit.security import ensure_suite_keys


@contextmanager
def gateway(home: Path, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    ensure_suite_keys(home)
    ready = home / "ready.json"
    given = {
        "MODELYARD_HOME": str(home),
        "MODELYARD_READY_FILE": str(ready),
        "MODELYARD_PEERS": json.dumps({"serving": "127.0.0.1:1", "features": "127.0.0.1:1"}),
        "MODELYARD_REDIS_URL": "redis://127.0.0.1:1/0",
        "MODELYARD_DIE_WITH_PARENT": "1",
        "MODELYARD_LISTEN": "127.0.0.1:0",
        "MODELYARD_GRPC_LISTEN": "127.0.0.1:0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        env={**os.environ, **given, **env},
        stderr=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 30
        while not ready.exists():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < end
            time.sleep(0.02)
        yield process, json.loads(ready.read_text())
    finally:
        process.kill()
        process.communicate()


def test_it_starts_answers_and_stops(tmp_path: Path) -> None:
    with gateway(tmp_path) as (process, facts):
        assert facts["pid"] == process.pid
        key_file = tmp_path / "keys" / "admin.key"
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
        key = key_file.read_text().strip()
        with httpx.Client(base_url=f"http://{facts['http']}") as client:
            assert client.get("/healthz").json() == {"status": "alive"}
            # Redis and the services are away: it is degraded on both ports, and takes requests.
            for base in (facts["http"], facts["metrics"]):
                ready = httpx.get(f"http://{base}/readyz")
                assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            assert client.get("/v1/models/a").status_code == 401
            client.headers["x-api-key"] = key
            answer = client.post("/v1/endpoints/a:predict", json={"instances": [{}]})
            assert (answer.status_code, answer.json()["reason"]) == (503, "NO_ROUTING_TABLE")
            assert client.get("/v1/models/a").status_code == 501
            answer = client.get("/v1/endpoints/a")
            assert (answer.status_code, answer.json()["reason"]) == (503, "PEER_UNAVAILABLE")
            answer = client.get("/v1/endpoints", headers={"x-big": "a" * 200_000})
            assert (answer.status_code, answer.json()["reason"]) == (431, "HEADERS_TOO_LARGE")
        metrics = httpx.get(f"http://{facts['metrics']}/metrics").text
        assert "modelyard_http_requests_total" in metrics
        host, _, port = facts["grpc"].rpartition(":")
        socket.create_connection((host, int(port)), 2).close()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 0
    assert key not in errors.decode()
    assert b"critical" not in errors.lower()


def test_requests_under_way_are_answered_before_the_end(tmp_path: Path) -> None:
    with gateway(tmp_path) as (process, facts):
        host, _, port = facts["http"].rpartition(":")
        key = (tmp_path / "keys" / "admin.key").read_text().strip()
        body = b'{"instances": [{}]}'
        head = (
            f"POST /v1/endpoints/a:predict HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(head.encode() + body[:5])
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(body[5:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 503")
        assert process.wait(10) == 0


@pytest.mark.parametrize("name", ["MODELYARD_LISTEN", "MODELYARD_GRPC_LISTEN"])
def test_it_does_not_face_the_world_in_the_clear(tmp_path: Path, name: str) -> None:
    ensure_suite_keys(tmp_path)
    env = {"MODELYARD_HOME": str(tmp_path), name: "0.0.0.0:0"}
    env["MODELYARD_PEERS"] = json.dumps({"serving": "127.0.0.1:1", "features": "127.0.0.1:1"})
    done = subprocess.run(
        [sys.executable, "-m", "gateway"],
        env={**os.environ, **env},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert b"MODELYARD_TLS_CERT" in done.stderr
