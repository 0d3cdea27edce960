"""The scripts of the images, run for real."""

from __future__ import annotations

import http.server
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from service_kit.security import main as make_keys

DEPLOY = Path(__file__).parents[2] / "deploy"
sys.path.insert(0, str(DEPLOY))

import healthcheck  # noqa: E402
import make_env  # noqa: E402
import ray_node  # noqa: E402


class Answers(http.server.BaseHTTPRequestHandler):
    """200 for /readyz, else 503."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


class Server(http.server.HTTPServer):
    """A refused handshake is what some tests ask for."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_health_over_http_and_tcp(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    port = server.server_port
    assert healthcheck.main([f"http://127.0.0.1:{port}/readyz"]) == 0
    assert healthcheck.main([f"tcp://127.0.0.1:{port}"]) == 0
    assert healthcheck.main([f"http://127.0.0.1:{port}/other"]) == 1
    assert capsys.readouterr().err == "status 503\n"


@pytest.mark.parametrize(
    "url", ["ftp://localhost:1/x", "http://localhost", "https://", "tcp://x:y"]
)
def test_a_wrong_address_is_unhealthy(url: str) -> None:
    assert healthcheck.main([url]) == 1


def test_nobody_there_is_unhealthy() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert healthcheck.main([f"tcp://127.0.0.1:{port}"]) == 1
    assert healthcheck.main([]) == 2


def test_health_over_mutual_tls(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    make_keys([str(tmp_path / "home"), "--share", str(shared)])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shared / "tls.crt", shared / "tls.key")
    context.load_verify_locations(shared / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    url = f"https://localhost:{server.server_port}/readyz"
    assert healthcheck.main([url]) == 1
    monkeypatch.setenv("MODELYARD_TLS_CA", str(shared / "ca.crt"))
    assert healthcheck.main([url]) == 1
    monkeypatch.setenv("MODELYARD_TLS_CERT", str(shared / "tls.crt"))
    monkeypatch.setenv("MODELYARD_TLS_KEY", str(shared / "tls.key"))
    assert healthcheck.main([url]) == 0


def test_passwords_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("VALKEY_PASSWORD=mine\nMODELYARD_PORT=9000")
    added = make_env.complete(path)
    assert set(added) == set(make_env.NAMES) - {"VALKEY_PASSWORD"}
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert make_env.complete(path) == []
    assert path.read_text() == text
    values = dict(line.split("=") for line in text.splitlines())
    assert (values["VALKEY_PASSWORD"], values["MODELYARD_PORT"]) == ("mine", "9000")
    assert len({values[name] for name in make_env.NAMES}) == len(make_env.NAMES)


def test_ray_roles() -> None:
    env = {"MODELYARD_RAY_ADDRESS": "ray-head:6380", "MODELYARD_RAY_CPUS": "4"}
    head = ray_node.start_command("head", env, "10.0.0.2")
    assert {"--head", "--port=6380", "--num-cpus=0", "--node-ip-address=10.0.0.2"} <= set(head)
    worker = ray_node.start_command("worker", env, "10.0.0.3")
    assert {"--address=ray-head:6380", "--num-cpus=4", "--block"} <= set(worker)
    join = ray_node.start_command("join", env, "10.0.0.4")
    assert {"--address=ray-head:6380", "--num-cpus=0"} <= set(join)
    assert "--block" not in join
    all_cpus = ray_node.start_command("worker", env | {"MODELYARD_RAY_CPUS": ""}, "10.0.0.3")
    assert not [word for word in all_cpus if word.startswith("--num-cpus")]
    assert all("--include-log-monitor=false" in each for each in (head, worker, join))
    assert [each for each in (head, worker, join) if "--no-monitor" in each] == [head]


@pytest.mark.parametrize("words", [[], ["tail"], ["head", "x"], ["join"]])
def test_a_wrong_role_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ray_node.main(words)
    assert caught.value.code == 2


def test_databases_have_owners_and_no_strangers(postgres_url: str) -> None:
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed")
    url = make_url(postgres_url)
    names = [f"my_deploy_{secrets.token_hex(4)}" for _ in range(2)]
    passwords = {f"{name.upper()}_DB_PASSWORD": f"it's {name}" for name in names}
    env = {
        "PATH": os.environ["PATH"],
        "PGHOST": str(url.host),
        "PGPORT": str(url.port or 5432),
        "PGPASSWORD": str(url.password or ""),
        "POSTGRES_USER": str(url.username),
        "POSTGRES_DB": str(url.database),
        "MODELYARD_DATABASES": " ".join(names),
    }
    script = str(DEPLOY / "postgres" / "databases.sh")
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        try:
            incomplete = subprocess.run(["sh", script], env=env, capture_output=True, text=True)
            assert incomplete.returncode == 1
            assert incomplete.stderr == f"{names[0].upper()}_DB_PASSWORD is missing\n"
            subprocess.run(["sh", script], env=env | passwords, check=True, timeout=30)
            owners = connection.execute(
                "SELECT datname, pg_get_userbyid(datdba),"
                " has_database_privilege(%s, datname, 'CONNECT')"
                " FROM pg_database WHERE datname = ANY(%s)",
                (names[0], names),
            ).fetchall()
            assert sorted(owners) == sorted([(names[0],) * 2 + (True,), (names[1],) * 2 + (False,)])
        finally:
            for name in names:
                connection.execute(f"DROP DATABASE IF EXISTS {name}")  # type: ignore[arg-type]
                connection.execute(f"DROP ROLE IF EXISTS {name}")  # type: ignore[arg-type]
