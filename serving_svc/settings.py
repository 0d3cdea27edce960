"""Settings of serving."""

from __future__ import annotations

from pathlib import Path

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

    prediction_retention_days: int = Field(default=90, ge=1, le=3_650)
    """How many days the prediction log goes back."""
    prediction_log_interval_s: float = Field(default=2.0, ge=0.05, le=60.0)
    """How often the log takes in what its stream holds; a lookup does not wait for that."""

    batch_workers: int = Field(default=2, ge=1, le=1_000)
    """Workers that score the shards of one batch prediction at once, at most."""
    batch_cpus: float = Field(default=0.5, gt=0.0)
    """CPUs that Ray sets aside for each of them."""
    batch_shard_rows: int = Field(default=20_000, ge=1, le=1_000_000)
    """Rows of a shard: what a worker holds in memory, and loses at most when it ends."""

    @property
    def batch_folder(self) -> Path:
        """Where batch predictions under way lie; every machine of the cluster must see it."""
        return self.home / "batches"

    @property
    def prediction_folder(self) -> Path:
        """Where the prediction log lies; shared by all processes of serving."""
        return self.home / "predictions"

    @property
    def durable_url(self) -> str:
        """Database of the workflows: a file of their own, or a schema of their own."""
        if self.database_url.startswith("sqlite"):
            return f"sqlite:///{self.home / 'serving_durable.db'}"
        return self.database_url
