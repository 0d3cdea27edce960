"""Which processes the suite has."""

from __future__ import annotations

import importlib.util
import json
import stat
from pathlib import Path

import pytest

from client.suite.plan import ONE_NODE_RAY, QUIET_RAY, SERVICES, SuiteSettings, plan, secret_file


@pytest.fixture
def settings(tmp_path: Path) -> SuiteSettings:
    return SuiteSettings(home=tmp_path, port=28080, cpus=2)


def test_the_suite_is_a_gateway_six_services_and_what_they_stand_on(
    settings: SuiteSettings,
) -> None:
    specs = plan(settings)
    names = [spec.name for spec in specs]
    assert set(names) == {"valkey", "ray", "mlflow", "gateway", *SERVICES}
    ports = [spec.port for spec in specs]
    assert len(set(ports)) == len(ports)
    assert all(28080 <= port < 28180 for port in ports)


def test_every_service_knows_its_peers(settings: SuiteSettings) -> None:
    specs = {spec.name: spec for spec in plan(settings)}
    peers = json.loads(specs["training"].env["MODELYARD_PEERS"])
    for area in SERVICES:
        assert peers[area] == specs[area].env["MODELYARD_LISTEN"]


def test_the_gateway_knows_where_features_are_read_in_frames(settings: SuiteSettings) -> None:
    specs = {spec.name: spec for spec in plan(settings)}
    address = specs["gateway"].env["MODELYARD_FEATURES_FRAMES"]
    assert specs["features"].env["MODELYARD_FRAMES_LISTEN"] == address
    port = int(address.rpartition(":")[2])
    assert [port in spec.ports for spec in specs.values()].count(True) == 1
    assert port in specs["features"].ports


def test_a_redis_of_ones_own_replaces_the_embedded_one(tmp_path: Path) -> None:
    settings = SuiteSettings(home=tmp_path, redis_url="redis://127.0.0.1:6379/4")
    specs = {spec.name: spec for spec in plan(settings)}
    assert "valkey" not in specs
    assert specs["serving"].env["MODELYARD_REDIS_URL"] == "redis://127.0.0.1:6379/4"


def test_each_service_has_a_database_of_its_own(tmp_path: Path) -> None:
    settings = SuiteSettings(home=tmp_path, database_url="postgresql+psycopg://host/my_{area}")
    urls = {spec.env["MODELYARD_DATABASE_URL"] for spec in plan(settings) if spec.name in SERVICES}
    assert urls == {f"postgresql+psycopg://host/my_{area}" for area in SERVICES}


def test_ray_asks_for_a_token_and_secrets_are_private(settings: SuiteSettings) -> None:
    specs = {spec.name: spec for spec in plan(settings)}
    assert specs["ray"].env["RAY_AUTH_MODE"] == "token"
    token = Path(specs["ray"].env["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    commands = " ".join(" ".join(spec.command) for spec in specs.values())
    for secret in (token, settings.keys("valkey.password")):
        assert secret.read_text() not in commands


def test_ray_looks_seldom_after_what_nobody_waits_for(settings: SuiteSettings) -> None:
    (ray,) = (spec for spec in plan(settings) if spec.name == "ray")
    assert {"--include-log-monitor=false", "--no-monitor"} <= set(ray.command)
    # Ray takes its settings from the environment and passes over names that it does not know.
    assert (QUIET_RAY | ONE_NODE_RAY).items() <= ray.env.items()
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    readers = ("serve/_private/constants.py", "core/src/ray/raylet/raylet", "dashboard/consts.py")
    agent = (f"dashboard/modules/{each}_consts.py" for each in ("event/event", "reporter/reporter"))
    known = b"".join((package / each).read_bytes() for each in (*readers, *agent))
    for name in QUIET_RAY | ONE_NODE_RAY:
        assert name.encode() in known, name


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "some.key"
    assert secret_file(path) == secret_file(path)
    assert len(path.read_text()) == 64
