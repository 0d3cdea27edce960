"""Detector and sink plugins, found by their entry points."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint

from monitor_svc.domain.alerts import Action, Alert
from monitor_svc.domain.comparison import NamedDetector
from monitor_svc.domain.monitors import DetectorSpec, Monitor, Policy, Response
from monitor_svc.events import alert_name, moment
from monitor_svc.sinks import Notice, Outbound, Sink
from service_kit.errors import DomainError, InvalidArgument
from service_kit.plugins import PluginCatalog, configure

DETECTORS, SINKS = "modelyard.detectors", "modelyard.alert_sinks"

#: Also announced by the distribution; named here so that a plain checkout has them as well.
BUILT_IN = (
    EntryPoint("psi", "monitor_svc.detectors:Psi", DETECTORS),
    EntryPoint("ks", "monitor_svc.detectors:Ks", DETECTORS),
    EntryPoint("chi_squared", "monitor_svc.detectors:ChiSquared", DETECTORS),
    EntryPoint("jensen_shannon", "monitor_svc.detectors:JensenShannon", DETECTORS),
    EntryPoint("log", "monitor_svc.sinks:Log", SINKS),
    EntryPoint("webhook", "monitor_svc.sinks:Webhook", SINKS),
)
DEFAULT_SINK = "log"


class InstalledDetectors:
    """The detectors of this environment."""

    def __init__(self, catalog: PluginCatalog) -> None:
        self._catalog = catalog

    def configured(self, specs: Sequence[DetectorSpec]) -> list[NamedDetector]:
        """Detectors with their settings; one configured twice is told apart by a number."""
        names: dict[str, int] = {}
        found = []
        for number, spec in enumerate(specs):
            try:
                plugin = self._catalog.load(DETECTORS, spec.detector)
                detector = configure(plugin, spec.config)
            except DomainError as error:
                raise _at(f"monitor.detectors[{number}]", error, "detector", "config") from error
            names[spec.detector] = count = names.get(spec.detector, 0) + 1
            name = spec.detector if count == 1 else f"{spec.detector}-{count}"
            found.append(NamedDetector(name, detector, spec.features, plugin.capabilities))
        return found


class Notification:
    """Tells an alert sink plugin of an alert."""

    def __init__(self, catalog: PluginCatalog, outbound: Outbound) -> None:
        self._catalog = catalog
        self._outbound = outbound

    def check(self, monitor: Monitor) -> None:
        """Refuse a monitor whose sinks cannot be used, naming the field."""
        for number, policy in enumerate(monitor.policies):
            if policy.response is Response.NOTIFY:
                try:
                    self._sink(policy)
                except DomainError as error:
                    raise _at(
                        f"monitor.policies[{number}]", error, "sink", "sink_config"
                    ) from error

    def __call__(self, action: Action, alert: Alert, monitor: Monitor) -> str:
        """Deliver the alert as it stands now."""
        notice = Notice(
            key=action.request_id,
            alert=alert_name(alert),
            endpoint=monitor.endpoint,
            severity=alert.severity.name,
            state=alert.state.value,
            summary=alert.summary,
            features=alert.features,
            event_time=moment(action.event_us),
        )
        return self._sink(action.policy).deliver(notice, self._outbound)

    def _sink(self, policy: Policy) -> Sink:
        plugin = self._catalog.load(SINKS, policy.sink or DEFAULT_SINK)
        sink: Sink = configure(plugin, policy.sink_config)
        return sink


def _at(where: str, error: DomainError, plugin: str, config: str) -> InvalidArgument:
    """An error of a plugin by the names that the contract has for it and its settings."""
    named = {"plugin": plugin, "config": config}
    head, dot, rest = (error.field or "plugin").partition(".")
    return InvalidArgument(
        error.reason, error.message, field=f"{where}.{named.get(head, head)}{dot}{rest}"
    )
