"""Settings of serving."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from service_kit.settings import ServiceSettings
from serving_svc.domain.scaling import ScalingPolicy


class ServingSettings(ServiceSettings):
    """What serving must know beside what every service knows."""

    replica_host: str = "127.0.0.1"
    """Address that replicas listen on; another one than loopback needs TLS."""
    replica_cpus: float = Field(default=0.1, ge=0.0)
    """CPUs that Ray sets aside for a replica."""
    replica_gpus: float = Field(default=0.0, ge=0.0)
    """GPUs that Ray sets aside for a replica, where its endpoint does not say (`replica_gpus`);
    several share one when it is below 1."""
    replica_report_ms: int = Field(default=2_000, ge=100, le=60_000)
    """How often replicas say that they live; after three missed reports one counts as lost."""
    replica_target_rows: float = Field(default=64.0, gt=0)
    """Rows under way or waiting that one replica should have; more ask for another replica."""
    replica_target_queue_ms: float = Field(default=20.0, gt=0)
    """How long requests should wait in a replica's queue; longer asks for another replica."""
    scale_up_after_s: float = Field(default=4.0, ge=0, le=3_600)
    """How long the load must be too high before there are more replicas."""
    scale_down_after_s: float = Field(default=60.0, ge=0, le=86_400)
    """How long the load must be too low before there are fewer."""
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

    stream_claim_after_s: float = Field(default=30.0, ge=2.0, le=3_600.0)
    """After what time events that a process has read and not finished are taken over."""

    code_models: tuple[str, ...] = ()
    """Models, `models/{model}`, whose own code may run (pickle), as JSON; none by default."""
    runtimes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of runtime plugins by name, as JSON: `{"onnx": {"threads": 2}}`."""

    @field_validator("replica_gpus")
    @classmethod
    def _share_or_whole(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError("more than one GPU must be a whole number of them")
        return gpus

    @property
    def report_interval(self) -> timedelta:
        """How often replicas say that they live."""
        return timedelta(milliseconds=self.replica_report_ms)

    @property
    def scaling(self) -> ScalingPolicy:
        """When versions get more replicas, and when fewer."""
        return ScalingPolicy(
            target_rows=self.replica_target_rows,
            target_queue_us=self.replica_target_queue_ms * 1_000,
            up_after_s=self.scale_up_after_s,
            down_after_s=self.scale_down_after_s,
        )

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
