"""The built-in alert sinks, announced in the entry-point group ``modelyard.alert_sinks``.

A sink is a class with a pydantic ``Config``, an ``api_version`` and ``capabilities``; ``deliver``
gets a notice and the one way out of the suite. It may be called again with the same ``key``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from service_kit.errors import FailedPrecondition, Unavailable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert, as sinks are told of it; a repetition has the same key."""

    key: str
    alert: str
    endpoint: str
    severity: str
    state: str
    summary: str
    features: tuple[str, ...]
    event_time: datetime

    def as_json(self) -> bytes:
        """The notice as a JSON object."""
        return json.dumps(
            {
                "key": self.key,
                "alert": self.alert,
                "endpoint": self.endpoint,
                "severity": self.severity,
                "state": self.state,
                "summary": self.summary,
                "features": list(self.features),
                "event_time": self.event_time.isoformat(),
            }
        ).encode()


class Outbound(Protocol):
    """The one client that speaks to addresses outside the suite."""

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a body and give the status; raises FailedPrecondition for a refused address."""
        ...


class Sink(Protocol):
    """A configured alert sink."""

    def deliver(self, notice: Notice, outbound: Outbound) -> str:
        """Tell of the alert and say what came of it."""
        ...


class Log:
    """Writes the alert to the log of the service."""

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset()

    class Config(BaseModel):
        """No settings."""

        model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, config: Config) -> None:
        del config

    def deliver(self, notice: Notice, outbound: Outbound) -> str:
        """Log it as a warning."""
        del outbound
        _log.warning(
            "%s: %s", notice.severity, notice.summary,
            extra={"alert": notice.alert, "endpoint": notice.endpoint},
        )  # fmt: skip
        return "logged"


class Webhook:
    """Posts the alert as JSON; the header ``Idempotency-Key`` is the same for a repetition."""

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"network"})
    example_config: ClassVar[Mapping[str, object]] = {"url": "https://alerts.example.com/hook"}

    class Config(BaseModel):
        """Settings."""

        model_config = ConfigDict(extra="forbid", frozen=True)
        url: str = Field(pattern=r"^https?://[^\s/@]+(/\S*)?$", max_length=2_000)

    def __init__(self, config: Config) -> None:
        self._config = config

    def deliver(self, notice: Notice, outbound: Outbound) -> str:
        """Post it; anything but a 2xx is a failure, 429 and 5xx one that may pass."""
        headers = {"content-type": "application/json", "idempotency-key": notice.key}
        status = outbound.post(self._config.url, notice.as_json(), headers)
        if status == 429 or status >= 500:
            raise Unavailable("WEBHOOK_UNAVAILABLE", f"the webhook answered {status}")
        if not 200 <= status < 300:
            raise FailedPrecondition("WEBHOOK_REFUSED", f"the webhook answered {status}")
        return f"delivered ({status})"
