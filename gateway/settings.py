"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field

from service_kit.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """What the gateway must know; `listen` is where REST is served."""

    grpc_listen: str = "127.0.0.1:0"
    """Where the Open Inference Protocol and `PredictionService` are served over gRPC."""
    features_frames: str = ""
    """Where the feature service reads in frames, `host:port`; it is called when empty."""
    max_body_bytes: int = Field(default=48 * 1024 * 1024, gt=0)
    """Largest body of a request that is read whole."""
    max_predict_bytes: int = Field(default=8 * 1024 * 1024, gt=0)
    """Largest body of a prediction."""
    max_upload_bytes: int = Field(default=4 * 1024 * 1024 * 1024, gt=0)
    """Largest body of a request that is passed on line by line."""
    max_concurrent: int = Field(default=1024, gt=0)
    """Most requests under way at once; more are refused with 503."""
    cache_max_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """Bytes that cached answers of all endpoints may take."""
    last_answers_max_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """Bytes that answers remembered as a last resort may take, of all endpoints."""
    body_timeout_s: float = Field(default=20.0, gt=0)
    """Longest pause between two parts of a body."""
