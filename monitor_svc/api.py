"""The gRPC face of the service: messages to use cases and back."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.field_mask_pb2 import FieldMask
from grpc import ServicerContext
from modelyard.monitoring.v1 import monitoring_pb2 as pb
from modelyard.monitoring.v1 import monitoring_pb2_grpc

from monitor_svc import messages
from monitor_svc.domain.monitors import Monitor
from monitor_svc.plugins import Notification
from monitor_svc.service import Monitoring
from monitor_svc.service.ports import Transactions
from service_kit.clock import Clock
from service_kit.errors import InvalidArgument
from service_kit.names import parse_name
from service_kit.paging import encode_token, page_params

CHANGEABLE = frozenset(
    {
        "reference_training_set", "reference_rows", "features", "detectors", "window",
        "allowed_lateness", "min_rows", "policies", "false_alarm_rate", "persistence",
        "persistence_of", "follow_champion",
    }
)  # fmt: skip
#: A change of these makes the reference anew.
OF_REFERENCE = frozenset({"reference_training_set", "reference_rows", "features", "window"})


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the servicer needs."""

    monitoring: Monitoring
    notification: Notification
    transactions: Transactions
    reads: Transactions
    clock: Clock


class MonitoringServicer(monitoring_pb2_grpc.MonitoringServiceServicer):
    """Implements `modelyard.monitoring.v1.MonitoringService`."""

    def __init__(self, needs: Dependencies) -> None:
        self._needs = needs
        self._service = needs.monitoring

    def CreateMonitor(
        self, request: pb.CreateMonitorRequest, context: ServicerContext
    ) -> pb.Monitor:
        """Create a monitor."""
        monitor = messages.monitor_in(request.monitor, request.monitor_id)
        self._needs.notification.check(monitor)
        rows = messages.reference_rows(request.monitor)
        reference = self._service.prepare_reference(monitor, rows)
        with self._needs.transactions() as store:
            return store.once(
                "CreateMonitor",
                request.request_id,
                request.SerializeToString(deterministic=True),
                lambda: messages.monitor_out(self._service.create(store, monitor, reference)),
                pb.Monitor.FromString,
            )

    def GetMonitor(self, request: pb.GetMonitorRequest, context: ServicerContext) -> pb.Monitor:
        """Get a monitor."""
        with self._needs.reads() as store:
            return messages.monitor_out(self._service.get(store, _monitor_id(request.name)))

    def ListMonitors(
        self, request: pb.ListMonitorsRequest, context: ServicerContext
    ) -> pb.ListMonitorsResponse:
        """List monitors by id."""
        page = page_params(request.page_size, request.page_token)
        with self._needs.reads() as store:
            found = store.monitors(page.size + 1, page.offset_token)
        shown = found[: page.size]
        return pb.ListMonitorsResponse(
            monitors=[messages.monitor_out(monitor) for monitor in shown],
            next_page_token=encode_token(shown[-1].id if len(found) > page.size else ""),
        )

    def UpdateMonitor(
        self, request: pb.UpdateMonitorRequest, context: ServicerContext
    ) -> pb.Monitor:
        """Change a monitor."""
        monitor_id = _monitor_id(request.monitor.name, "monitor.name")
        paths = _changed_paths(request)
        with self._needs.reads() as store:
            current = self._service.get(store, monitor_id)
        changed = _merged(current, request.monitor, paths)
        self._needs.notification.check(changed)
        reference = None
        if OF_REFERENCE & set(paths):
            rows = messages.reference_rows(request.monitor) if "reference_rows" in paths else None
            reference = self._service.prepare_reference(changed, rows)
        else:
            self._service.check(changed)
        with self._needs.transactions() as store:
            return store.once(
                "UpdateMonitor",
                request.request_id,
                request.SerializeToString(deterministic=True),
                lambda: messages.monitor_out(
                    self._service.update(store, current, changed, reference)
                ),
                pb.Monitor.FromString,
            )

    def ListWindows(
        self, request: pb.ListWindowsRequest, context: ServicerContext
    ) -> pb.ListWindowsResponse:
        """List closed windows, newest first."""
        page = page_params(request.page_size, request.page_token)
        monitor_id = _monitor_id(request.parent, "parent")
        with self._needs.reads() as store:
            found = self._service.windows(store, monitor_id, page.size + 1, page.offset_token)
        shown = found[: page.size]
        more = len(found) > page.size
        return pb.ListWindowsResponse(
            windows=[messages.window_out(window) for window in shown],
            next_page_token=encode_token(f"{shown[-1].start_us}:{shown[-1].epoch}" if more else ""),
        )

    def GetPerformance(
        self, request: pb.GetPerformanceRequest, context: ServicerContext
    ) -> pb.PerformanceReport:
        """Get the quality of versions by window."""
        monitor_id = _monitor_id(request.name)
        with self._needs.reads() as store:
            rows = self._service.performance(store, monitor_id, request.group_by)
        return messages.performance_out(monitor_id, rows)

    def ListAlerts(
        self, request: pb.ListAlertsRequest, context: ServicerContext
    ) -> pb.ListAlertsResponse:
        """List alerts, newest first."""
        page = page_params(request.page_size, request.page_token)
        anyone = request.parent == "monitors/-"
        monitor_id = "" if anyone else _monitor_id(request.parent, "parent")
        with self._needs.reads() as store:
            if monitor_id:
                self._service.get(store, monitor_id)
            found = store.alerts(monitor_id, page.size + 1, page.offset_token)
            shown = found[: page.size]
            actions = store.actions_of([alert.id for alert in shown])
        return pb.ListAlertsResponse(
            alerts=[
                messages.alert_out(alert, [a for a in actions if a.alert == alert.id])
                for alert in shown
            ],
            next_page_token=encode_token(shown[-1].id if len(found) > page.size else ""),
        )

    def GetAlert(self, request: pb.GetAlertRequest, context: ServicerContext) -> pb.Alert:
        """Get an alert."""
        with self._needs.reads() as store:
            return messages.alert_out(*self._service.alert(store, *_alert_ids(request.name)))

    def AcknowledgeAlert(
        self, request: pb.AcknowledgeAlertRequest, context: ServicerContext
    ) -> pb.Alert:
        """Say that a person has seen an alert."""
        monitor_id, alert_id = _alert_ids(request.name)
        with self._needs.transactions() as store:
            return store.once(
                "AcknowledgeAlert",
                request.request_id,
                request.SerializeToString(deterministic=True),
                lambda: messages.alert_out(
                    *self._service.acknowledge(store, monitor_id, alert_id, request.comment)
                ),
                pb.Alert.FromString,
            )

    def RecordOutcomes(
        self, request: pb.RecordOutcomesRequest, context: ServicerContext
    ) -> pb.RecordOutcomesResponse:
        """Take outcomes."""
        now = self._needs.clock.now()
        rows = [messages.outcome_in(outcome, now) for outcome in request.outcomes]
        with self._needs.transactions() as store:
            return store.once(
                "RecordOutcomes",
                request.request_id,
                request.SerializeToString(deterministic=True),
                lambda: pb.RecordOutcomesResponse(
                    accepted_count=self._service.record_outcomes(store, request.metric, rows)
                ),
                pb.RecordOutcomesResponse.FromString,
            )


def _monitor_id(name: str, field: str = "name") -> str:
    return parse_name("monitors/{monitor}", name, field=field)["monitor"]


def _alert_ids(name: str) -> tuple[str, str]:
    ids = parse_name("monitors/{monitor}/alerts/{alert}", name)
    return ids["monitor"], ids["alert"]


def _changed_paths(request: pb.UpdateMonitorRequest) -> list[str]:
    paths = list(request.update_mask.paths)
    if not paths:
        paths = [field.name for field, _ in request.monitor.ListFields()]
        return [path for path in paths if path in CHANGEABLE]
    if paths == ["*"]:
        return sorted(CHANGEABLE)
    if unknown := [path for path in paths if path not in CHANGEABLE]:
        raise InvalidArgument(
            "INVALID_UPDATE_MASK",
            f"{len(unknown)} of the paths cannot be changed",
            field="update_mask",
        )
    return paths


def _merged(current: Monitor, wanted: pb.Monitor, paths: list[str]) -> Monitor:
    message = messages.monitor_out(current)
    FieldMask(paths=paths).MergeMessage(wanted, message, True, True)
    # Rows take the place of a training set, and a training set that of rows.
    if "reference_rows" in paths and "reference_training_set" not in paths:
        message.reference_training_set = ""
    return messages.monitor_in(message, current.id)
