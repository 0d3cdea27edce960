"""Settings of the feature service."""

from __future__ import annotations

from pydantic import Field

from service_kit.settings import ServiceSettings


class FeatureSettings(ServiceSettings):
    """What the feature service must know beside what every service knows."""

    frames_listen: str = ""
    """Where gateways read features in frames, `host:port`; nowhere when empty: they call then."""
    remembered_bytes: int = Field(default=64 << 20, ge=0)
    """Memory for what was read, to stand in for the online store when it does not answer; none
    when 0."""
    remembered_s: float = Field(default=3_600.0, ge=0)
    """Seconds since it was read for which it may do so."""
