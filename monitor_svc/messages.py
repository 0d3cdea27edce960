"""Contract messages to domain and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.data.v1 import data_pb2
from modelyard.monitoring.v1 import monitoring_pb2 as pb

from monitor_svc.domain.alerts import Action, Alert
from monitor_svc.domain.judging import Finding
from monitor_svc.domain.monitors import (
    SCORE,
    DetectorSpec,
    Following,
    Monitor,
    Policy,
    Response,
    Severity,
)
from monitor_svc.domain.sketches import NumericSketch
from monitor_svc.events import alert_name, timestamp
from monitor_svc.rows import from_arrow_streams, from_objects
from monitor_svc.service import PerformanceRow
from monitor_svc.service.ports import OutcomeRow, ReferenceRows, WindowState
from service_kit.errors import InvalidArgument
from service_kit.names import check_id, parse_name

_MICROSECOND = timedelta(microseconds=1)


def monitor_name(monitor_id: str) -> str:
    """`monitors/{monitor}`."""
    return f"monitors/{monitor_id}"


def monitor_in(message: pb.Monitor, monitor_id: str) -> Monitor:
    """What a person asks for; absent values get their defaults."""
    parse_name("endpoints/{endpoint}", message.endpoint, field="monitor.endpoint")
    if message.reference_training_set:
        parse_name(
            "trainingSets/{training_set}",
            message.reference_training_set,
            field="monitor.reference_training_set",
        )
    detectors = [
        DetectorSpec(d.detector, MessageToDict(d.config), tuple(d.features))
        for d in message.detectors
    ]
    return Monitor(
        id=check_id(monitor_id, "monitor_id"),
        endpoint=message.endpoint,
        reference_training_set=message.reference_training_set,
        features=tuple(message.features),
        detectors=tuple(detectors) or (DetectorSpec("psi"),),
        window=_span(message, "window", timedelta(days=1)),
        allowed_lateness=_span(message, "allowed_lateness", timedelta(0)),
        min_rows=message.min_rows or 100,
        policies=tuple(_policy_in(n, policy) for n, policy in enumerate(message.policies)),
        false_alarm_rate=message.false_alarm_rate or 0.01,
        persistence=message.persistence or 2,
        persistence_of=message.persistence_of or max(3, message.persistence),
        follow_champion=message.follow_champion,
    )


def _policy_in(number: int, message: pb.Policy) -> Policy:
    where = f"monitor.policies[{number}]"
    severity = _known(pb.Severity.Name, message.severity, "SEVERITY_", f"{where}.severity")
    response = _known(pb.Response.Name, message.response, "RESPONSE_", f"{where}.response")
    if message.pipeline:
        parse_name("pipelines/{pipeline}", message.pipeline, field=f"{where}.pipeline")
    return Policy(
        severity=Severity[severity],
        response=Response(response),
        pipeline=message.pipeline,
        sink=message.sink,
        sink_config=MessageToDict(message.sink_config),
        cooldown=_span(message, "cooldown", timedelta(days=7)),
        budget=message.budget,
        budget_period=_span(message, "budget_period", timedelta(days=30)),
    )


def _known(name_of: object, value: int, prefix: str, field: str) -> str:
    try:
        name: str = name_of(value).removeprefix(prefix)  # type: ignore[operator]
    except ValueError:
        name = "UNSPECIFIED"
    if name == "UNSPECIFIED":
        raise InvalidArgument("INVALID_MONITOR", "must be set to a known value", field=field)
    return name


def _span(message: pb.Monitor | pb.Policy, field: str, default: timedelta) -> timedelta:
    if not message.HasField(field):
        return default
    duration: Duration = getattr(message, field)
    try:
        return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1_000)
    except OverflowError as error:
        raise InvalidArgument("INVALID_MONITOR", "is out of range", field=field) from error


def reference_rows(message: pb.Monitor) -> ReferenceRows | None:
    """The rows that were given as a reference, if any."""
    table: data_pb2.Table = message.reference_rows
    encoding = table.WhichOneof("encoding")
    if encoding == "arrow_ipc":
        return from_arrow_streams([table.arrow_ipc])
    if encoding == "json":
        return from_objects([MessageToDict(row) for row in table.json.rows])
    return None


def monitor_out(monitor: Monitor) -> pb.Monitor:
    """A monitor without the rows of its reference."""
    message = pb.Monitor(
        name=monitor_name(monitor.id),
        endpoint=monitor.endpoint,
        reference_training_set=monitor.reference_training_set,
        features=monitor.features,
        detectors=[
            pb.DetectorConfig(detector=d.detector, config=_struct(d.config), features=d.features)
            for d in monitor.detectors
        ],
        window=_duration(monitor.window),
        allowed_lateness=_duration(monitor.allowed_lateness),
        min_rows=monitor.min_rows,
        policies=[_policy_out(policy) for policy in monitor.policies],
        false_alarm_rate=monitor.false_alarm_rate,
        persistence=monitor.persistence,
        persistence_of=monitor.persistence_of,
        create_time=_timestamp(monitor.created),
        reference_state=(
            f"READY ({monitor.reference_rows} rows)" if monitor.reference_rows else "EMPTY"
        ),
        follow_champion=monitor.follow_champion,
        reference_model_version=monitor.reference_version,
        follow_status=_follow_status(monitor.following),
    )
    if monitor.since_us is not None:
        message.reference_since.CopyFrom(timestamp(monitor.since_us))
    if monitor.closed_before_us is not None:
        message.watermark.CopyFrom(timestamp(monitor.closed_before_us))
    return message


def _follow_status(following: Following | None) -> str:
    if following is None:
        return ""
    if following.due is None:
        return f"{following.version} answers; the reference is kept: {following.reason}"
    tried = f" (tried {following.attempts} times: {following.reason})" if following.reason else ""
    return f"{following.version} answers; its training set is to be read{tried}"


def _policy_out(policy: Policy) -> pb.Policy:
    return pb.Policy(
        severity=f"SEVERITY_{policy.severity.name}",
        response=f"RESPONSE_{policy.response.name}",
        pipeline=policy.pipeline,
        sink=policy.sink,
        sink_config=_struct(policy.sink_config),
        cooldown=_duration(policy.cooldown),
        budget=policy.budget,
        budget_period=_duration(policy.budget_period),
    )


def window_out(window: WindowState) -> pb.Window:
    """A closed window."""
    score = window.sketches.get(SCORE)
    return pb.Window(
        start_time=timestamp(window.start_us),
        end_time=timestamp(window.end_us),
        row_count=window.row_count,
        findings=[_finding_out(finding) for finding in window.findings],
        mean_score=score.mean if isinstance(score, NumericSketch) else 0.0,
        skipped=window.skipped,
    )


def _finding_out(finding: Finding) -> pb.Finding:
    return pb.Finding(
        detector=finding.detector,
        feature=finding.feature,
        score=finding.score,
        p_value=math.nan if finding.p_value is None else finding.p_value,
        threshold=finding.threshold,
        drifted=finding.drifted,
        explanation=finding.explanation,
    )


def performance_out(monitor_id: str, rows: Sequence[PerformanceRow]) -> pb.PerformanceReport:
    """A report."""
    return pb.PerformanceReport(
        name=monitor_name(monitor_id),
        windows=[
            pb.PerformanceWindow(
                model_version=row.model_version,
                role="shadow" if row.shadow else "primary",
                start_time=timestamp(row.start_us),
                end_time=timestamp(row.end_us),
                row_count=row.rows,
                labelled_count=row.labelled,
                metrics=dict(row.metrics),
            )
            for row in rows
        ],
    )


def alert_out(alert: Alert, actions: Sequence[Action]) -> pb.Alert:
    """An alert with what was done about it."""
    return pb.Alert(
        name=alert_name(alert),
        severity=f"SEVERITY_{alert.severity.name}",
        state=f"STATE_{alert.state.name}",
        summary=alert.summary,
        features=alert.features,
        event_time=timestamp(alert.event_us),
        create_time=_timestamp(alert.created),
        actions=[
            pb.AlertAction(
                response=f"RESPONSE_{action.policy.response.name}",
                state=action.state.value,
                result=action.result,
                action_time=_timestamp(action.time) if action.time else None,
            )
            for action in actions
        ],
        kind=alert.kind.value,
        comment=alert.comment,
    )


def outcome_in(message: pb.Outcome, now: datetime) -> OutcomeRow:
    """One outcome; without a time it became known now."""
    if message.HasField("event_time"):
        time = message.event_time
        return OutcomeRow(
            message.prediction_id, message.value, time.seconds * 1_000_000 + time.nanos // 1_000
        )
    return OutcomeRow(message.prediction_id, message.value, int(now.timestamp() * 1e6))


def _struct(values: object) -> Struct:
    message = Struct()
    message.update(values)  # type: ignore[arg-type]
    return message


def _duration(span: timedelta) -> Duration:
    seconds, rest = divmod(span // _MICROSECOND, 1_000_000)
    return Duration(seconds=seconds, nanos=rest * 1_000)


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message
