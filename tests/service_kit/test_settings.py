"""Settings from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service_kit.security import ensure_suite_keys, read_service_token
from service_kit.settings import ServiceSettings


def test_the_database_and_the_token_come_from_home(tmp_path: Path) -> None:
    ensure_suite_keys(tmp_path)
    settings = ServiceSettings(service="registry", home=tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/registry.db"
    assert settings.service_token.get_secret_value() == read_service_token(tmp_path)
    assert read_service_token(tmp_path) not in repr(settings)


def test_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path))
    monkeypatch.setenv("MODELYARD_PEERS", '{"registry": "127.0.0.1:8101"}')
    monkeypatch.setenv("MODELYARD_SERVICE_TOKEN", "given")
    monkeypatch.setenv("MODELYARD_DATABASE_URL", "postgresql+psycopg://db/registry")
    monkeypatch.setenv("MODELYARD_SERVICE", "another")
    settings = ServiceSettings(service="registry")
    assert settings.service == "registry"
    assert settings.home == tmp_path
    assert settings.peers == {"registry": "127.0.0.1:8101"}
    assert settings.service_token.get_secret_value() == "given"
    assert settings.database_url == "postgresql+psycopg://db/registry"


def test_without_keys_there_is_no_token(tmp_path: Path) -> None:
    assert not ServiceSettings(service="registry", home=tmp_path).service_token.get_secret_value()


def test_tls_is_given_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="together"):
        ServiceSettings(service="registry", home=tmp_path, tls_cert=tmp_path / "tls.crt")


def test_errors_do_not_show_what_was_given(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as got:
        ServiceSettings(service="registry", home=tmp_path, metrics_listen=b"\xff\xfehunter2")
    assert "hunter2" not in str(got.value)


def test_settings_do_not_change(tmp_path: Path) -> None:
    settings = ServiceSettings(service="registry", home=tmp_path)
    with pytest.raises(ValidationError):
        settings.listen = "0.0.0.0:1"
