"""Settings of the feature service."""

from __future__ import annotations

from pydantic import Field

from service_kit.settings import ServiceSettings


class FeatureSettings(ServiceSettings):
    """What the feature service must know beside what every service knows."""

    frames_listen: str = ""
    """Where gateways read features in frames, `host:port`; nowhere when empty: they call then."""
    remembered_values: int = Field(default=500_000, ge=0)
    """Values that are remembered of what was read, of all entities together, for when the online
    store does not answer: 100 bytes each, more for long texts. None when 0."""
    remembered_s: float = Field(default=3_600.0, ge=0)
    """Seconds since they were read for which they are given then."""
