"""Settings that every service has, read from the environment (``MODELYARD_…``)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """What a service must know of its surroundings; a service with more to know subclasses it."""

    model_config = SettingsConfigDict(
        env_prefix="MODELYARD_",
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    service: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    """The area it serves, e.g. ``registry``."""
    home: Path = Path("~/.modelyard")
    """Data directory of the suite."""
    listen: str = "127.0.0.1:0"
    """Where gRPC is served: ``host:port`` or ``unix:/path``."""
    metrics_listen: str = "127.0.0.1:0"
    """Where ``/metrics``, ``/healthz`` and ``/readyz`` are served: ``host:port``."""
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite in ``home``."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    stream_prefix: str = "modelyard"
    """Redis keys of event streams are ``{stream_prefix}:{stream}``."""
    peers: dict[str, str] = Field(default_factory=dict)
    """gRPC address of each area, as JSON: ``{"registry": "127.0.0.1:8101"}``."""
    ray_address: str = ""
    mlflow_url: str = ""
    service_token: SecretStr = SecretStr("")
    """The suite's shared secret; empty means ``{home}/keys/service.key`` when that exists."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """PEM files: our certificate and key, and the authority that peers must be signed by."""
    otlp_endpoint: str = ""
    """Where traces go (OTLP over gRPC); empty means nowhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    ready_file: Path | None = None
    """Written with the bound addresses (JSON) as soon as the service is ready."""
    die_with_parent: bool = False
    """Ask the kernel to end this process when its parent ends."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: object) -> object:
        # Before validation, because the settings are frozen after it.
        if not isinstance(values, dict):
            return values
        home = Path(values.get("home") or cls.model_fields["home"].default).expanduser().absolute()
        filled = dict(values) | {"home": home}
        if not values.get("database_url") and "service" in values:
            filled["database_url"] = f"sqlite:///{home / str(values['service'])}.db"
        key = home / "keys" / "service.key"
        if not _secret(values.get("service_token")) and key.is_file():
            filled["service_token"] = key.read_text().strip()
        return filled

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        given = [path is not None for path in (self.tls_cert, self.tls_key, self.tls_ca)]
        if any(given) and not all(given):
            raise ValueError("tls_cert, tls_key and tls_ca are given together or not at all")
        return self

    @property
    def tls(self) -> bool:
        """Whether connections to and from this service use TLS."""
        return self.tls_cert is not None


def _secret(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
