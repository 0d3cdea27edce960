"""Settings of the feature service."""

from __future__ import annotations

from service_kit.settings import ServiceSettings


class FeatureSettings(ServiceSettings):
    """What the feature service must know beside what every service knows."""

    frames_listen: str = ""
    """Where gateways read features in frames, `host:port`; nowhere when empty: they call then."""
