"""Settings of serving."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from service_kit.settings import ServiceSettings


class ServingSettings(ServiceSettings):
    """What serving must know beside what every service knows."""

    replica_host: str = "127.0.0.1"
    """Address that replicas listen on; another one than loopback needs TLS."""
    replica_cpus: float = Field(default=0.1, ge=0.0)
    """CPUs that Ray sets aside for a replica."""
    replica_report_ms: int = Field(default=2_000, ge=100, le=60_000)
    """How often replicas say that they live; after three missed reports one counts as lost."""
    load_timeout_s: float = Field(default=120.0, gt=0)
    """How long a version may take to load."""

    code_models: tuple[str, ...] = ()
    """Models, `models/{model}`, whose own code may run (pickle), as JSON; none by default."""
    runtimes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of runtime plugins by name, as JSON: `{"onnx": {"threads": 2}}`."""

    @property
    def durable_url(self) -> str:
        """Database of the workflows: a file of their own, or a schema of their own."""
        if self.database_url.startswith("sqlite"):
            return f"sqlite:///{self.home / 'serving_durable.db'}"
        return self.database_url
