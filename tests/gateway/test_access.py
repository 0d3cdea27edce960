"""API keys: who comes in and what they may do."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from gateway.__main__ import main
from gateway.access.bootstrap import ensure_admin_key
from gateway.access.files import create_secret, read_hmac_secret
from gateway.access.keys import check_principal, check_scopes, digest_of, new_key, prefix_of
from gateway.access.service import KeyService, key_of
from gateway.access.storage import ApiKeyTable, Base
from gateway.transcoder.contracts import load_contracts, published_methods
from service_kit.clock import FixedClock
from service_kit.database import migrate
from service_kit.errors import InvalidArgument, NotFound
from service_kit.migrations import schema_differences
from tests.gateway.conftest import Suite

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def keys(sql_engine: Engine) -> KeyService:
    migrate(sql_engine, "gateway")
    return KeyService(ApiKeyTable(sql_engine), b"s" * 32, FixedClock(NOW))


def test_the_form_of_a_key() -> None:
    key, prefix = new_key()
    assert prefix_of(key) == prefix
    assert len(key) == 4 + 8 + 1 + 32
    assert len({new_key()[0] for _ in range(100)}) == 100
    assert len(digest_of(key, b"s")) == 32
    assert prefix_of("myk_short") is None


@pytest.mark.parametrize("scopes", [[], ["registry"], ["registry:"], [":read"], ["a b:c"], ["**"]])
def test_wrong_scopes(scopes: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="INVALID_SCOPE"):
        check_scopes(scopes)


@pytest.mark.parametrize("principal", ["ann", "users/", "roots/a", "users/a b", "users/a\nb"])
def test_wrong_principals(principal: str) -> None:
    with pytest.raises(InvalidArgument, match="INVALID_PRINCIPAL"):
        check_principal(principal)


def test_a_key_is_kept_as_a_digest(keys: KeyService, sql_engine: Engine) -> None:
    text = keys.create(["registry:read"], "users/ann")
    (kept,) = keys.list()
    assert kept.digest == digest_of(text, b"s" * 32)
    assert (kept.principal, kept.scopes, kept.created) == ("users/ann", {"registry:read"}, NOW)
    with sql_engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM api_keys").all()
    assert text[13:] not in repr(rows)


def test_revoking_keeps_the_first_time(keys: KeyService) -> None:
    prefix = prefix_of(keys.create(["*"])) or ""
    keys.revoke(prefix)
    keys._clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    keys.revoke(prefix)
    assert keys.list()[0].revoked == NOW
    with pytest.raises(NotFound):
        keys.revoke("aaaaaaaa")


def test_the_first_start_makes_an_admin_key_once(keys: KeyService, tmp_path: Path) -> None:
    ensure_admin_key(keys, tmp_path)
    path = tmp_path / "keys" / "admin.key"
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ensure_admin_key(keys, tmp_path)
    assert path.read_text() == text
    assert len(keys.list()) == 1
    assert keys.list()[0].scopes == {"*"}


def test_an_admin_key_comes_back_when_none_is_usable(keys: KeyService, tmp_path: Path) -> None:
    ensure_admin_key(keys, tmp_path)
    keys.revoke(keys.list()[0].prefix)
    ensure_admin_key(keys, tmp_path)
    assert {key.revoked for key in keys.list()} == {NOW, None}


def test_secrets_are_made_once(tmp_path: Path) -> None:
    assert read_hmac_secret(tmp_path) == read_hmac_secret(tmp_path)
    assert not create_secret(tmp_path / "keys" / "api-keys.secret", "other")
    assert [each.name for each in (tmp_path / "keys").iterdir()] == ["api-keys.secret"]


def test_the_migration_makes_the_tables(sql_engine: Engine) -> None:
    migrate(sql_engine, "gateway")
    assert schema_differences(sql_engine, Base.metadata) == []


@pytest.mark.parametrize(
    ("authorization", "api_key", "key"),
    [("Bearer a", "", "a"), ("bearer  a ", "b", "a"), ("Basic a", "b", "b"), ("", " b", "b")],
)
def test_where_a_key_is_read(authorization: str, api_key: str, key: str) -> None:
    assert key_of(authorization, api_key) == key


BAD_KEYS = ["", "x", "myk_", "myk_aaaaaaaa_" + "a" * 32, "é" * 10, "myk_aaaaaaaa_" + "a" * 10_000]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_strangers_are_told_so(suite: Suite, key: str) -> None:
    headers = {"x-api-key": key.encode()} if key else {}
    answer = suite.run(suite.client.get("/v1/models/a", headers=headers))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["reason"] == ("BAD_API_KEY" if key else "NO_API_KEY")
    assert suite.registry.asks == []


def test_a_known_prefix_with_another_secret(suite: Suite) -> None:
    assert suite.get("/v1/models/a", key=suite.key[:-1] + "_").status_code == 401
    assert suite.get("/v1/models/a", key=suite.key + "a").status_code == 401


def test_a_new_key_works_at_once_and_a_revoked_one_no_longer(suite: Suite) -> None:
    text = suite.gateway.keys.create(["registry:read"])
    assert suite.get("/v1/models/a", key=text).status_code == 200
    suite.gateway.keys.revoke(text[4:12])

    async def refused() -> None:
        while await suite.status("/v1/models/a", text) != 401:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    suite.run(asyncio.wait_for(refused(), 2))


def test_every_method_needs_its_scope(suite: Suite) -> None:
    text = suite.gateway.keys.create(["nothing:nothing"])
    suite.run(suite.gateway.door.refresh())
    count = 0
    for method in published_methods(load_contracts()):
        for binding in method.bindings:
            segments = [s if s not in ("*", "**") else "a" for s in binding.template.segments]
            verb = f":{binding.template.verb}" if binding.template.verb else ""
            path = f"/{'/'.join(segments)}{verb}"
            answer = suite.call(binding.http_method, path, key=text)
            assert (answer.status_code, answer.json()["reason"]) == (403, "SCOPE_MISSING"), path
            assert answer.json()["metadata"]["scope"] == method.scope
            count += 1
    assert count > 60


@pytest.mark.parametrize(
    ("scopes", "path", "status"),
    [
        (["registry:read"], "/v1/models/a", 200),
        (["*:read"], "/v1/models/a", 200),
        (["registry:*"], "/v1/models/a", 200),
        (["registry:write"], "/v1/models/a", 403),
        (["registry:read"], "/metrics", 403),
        (["ops:read"], "/metrics", 200),
        (["registry:read"], "/v2", 403),
    ],
)
def test_scopes(suite: Suite, scopes: list[str], path: str, status: int) -> None:
    text = suite.gateway.keys.create(scopes)
    suite.run(suite.gateway.door.refresh())
    assert suite.get(path, key=text).status_code == status


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path))
    assert main(["keys", "create", "--scopes", "serving:predict", "--principal", "users/ann"]) == 0
    key = capsys.readouterr().out.strip()
    prefix = prefix_of(key) or ""
    assert main(["keys", "revoke", prefix]) == 0
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert prefix in listed
    assert "revoked" in listed
    assert key not in listed
    assert main(["keys", "revoke", "aaaaaaaa"]) == 1
    assert main(["keys", "create", "--scopes", "nonsense"]) == 1
    assert main(["nonsense"]) == 2
