"""Examples of definitions and tables."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from modelyard.data.v1 import data_pb2
from modelyard.features.v1 import features_pb2 as pb

from feature_svc.domain import (
    DataSource,
    Definitions,
    Entity,
    FeatureRef,
    FeatureService,
    FeatureView,
    Field,
    Proposal,
    ValueType,
    apply,
)

START = datetime(2013, 1, 1, tzinfo=UTC)
D, N, S, B, T = (
    ValueType.DOUBLE,
    ValueType.INT64,
    ValueType.STRING,
    ValueType.BOOL,
    ValueType.TIMESTAMP,
)
NUMBERS = {
    D: pb.VALUE_TYPE_DOUBLE,
    N: pb.VALUE_TYPE_INT64,
    S: pb.VALUE_TYPE_STRING,
    B: pb.VALUE_TYPE_BOOL,
    T: pb.VALUE_TYPE_TIMESTAMP,
}


def at(hours: float) -> datetime:
    """A moment some hours after the start."""
    return START + timedelta(hours=hours)


def fields(**types: ValueType) -> tuple[Field, ...]:
    """Columns with their types."""
    return tuple(Field(name, kind) for name, kind in types.items())


def proposal() -> Proposal:
    """Flights: labels, delays by carrier (6 h to live), seats by plane and gate."""
    return Proposal(
        entities=(
            Entity("carrier", "carrier", S),
            Entity("plane", "tail", S),
            Entity("gate", "gate", N),
        ),
        data_sources=(
            DataSource(
                "flights",
                fields(carrier=S, tail=S, gate=N, late=N, departed=T, landed=T),
                "departed",
            ),
            DataSource("delays", fields(carrier=S, mean=D, count=N, known=T), "known"),
            DataSource("planes", fields(tail=S, gate=N, seats=D, maker=S, jet=B, since=T), "since"),
        ),
        feature_views=(
            FeatureView(
                "delays", ("carrier",), "delays", fields(mean=D, count=N), timedelta(hours=6)
            ),
            FeatureView(
                "planes", ("plane", "gate"), "planes", fields(seats=D, maker=S, jet=B), owner="ops"
            ),
        ),
        feature_services=(
            FeatureService(
                "late",
                tuple(
                    FeatureRef(*each)
                    for each in (
                        ("planes", "jet"),
                        ("delays", "mean"),
                        ("planes", "seats"),
                        ("planes", "maker"),
                        ("delays", "count"),
                    )
                ),
            ),
        ),
    )


def definitions() -> Definitions:
    """The example, applied."""
    return apply(Definitions(), proposal()).definitions


def stamps(hours: Sequence[float | None]) -> Any:
    """Moments as an Arrow array."""
    moments = [None if each is None else at(each) for each in hours]
    return pa.array(moments, pa.timestamp("us", tz="UTC"))


def delays(
    carriers: Sequence[str | None],
    means: Sequence[float | None],
    counts: Sequence[int | None],
    hours: Sequence[float],
) -> Any:
    """Rows of the source `delays`."""
    return pa.table(
        {
            "carrier": pa.array(carriers, pa.string()),
            "mean": pa.array(means, pa.float64()),
            "count": pa.array(counts, pa.int64()),
            "known": stamps(hours),
        }
    )


def planes(rows: Sequence[tuple[str, int, float | None, str | None, bool | None, float]]) -> Any:
    """Rows of the source `planes`: tail, gate, seats, maker, jet, hour."""
    tails, gates, seats, makers, jets, hours = zip(*rows, strict=True)
    return pa.table(
        {
            "tail": pa.array(tails, pa.string()),
            "gate": pa.array(gates, pa.int64()),
            "seats": pa.array(seats, pa.float64()),
            "maker": pa.array(makers, pa.string()),
            "jet": pa.array(jets, pa.bool_()),
            "since": stamps(hours),
        }
    )


def flights(
    rows: Sequence[tuple[str, str, int, int, float, float | None]],
) -> Any:
    """Rows of the source `flights`: carrier, tail, gate, late, hours of departure and landing."""
    carriers, tails, gates, late, departed, landed = zip(*rows, strict=True)
    return pa.table(
        {
            "carrier": carriers,
            "tail": tails,
            "gate": gates,
            "late": late,
            "departed": stamps(departed),
            "landed": stamps(landed),
        }
    )


def ipc(table: Any) -> data_pb2.Table:
    """A table as it travels."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return data_pb2.Table(arrow_ipc=sink.getvalue())


def apply_request(wanted: Proposal | None = None, **more: Any) -> pb.ApplyDefinitionsRequest:
    """A request that applies definitions, the example by default."""
    wanted = wanted or proposal()
    request = pb.ApplyDefinitionsRequest(**more)
    for entity in wanted.entities:
        request.entities.add(
            name=f"entities/{entity.id}", join_key=entity.join_key, type=NUMBERS[entity.type]
        )
    for source in wanted.data_sources:
        request.data_sources.add(
            name=f"dataSources/{source.id}",
            fields=_messages(source.fields),
            timestamp_field=source.timestamp_field,
        )
    for view in wanted.feature_views:
        message = request.feature_views.add(
            name=f"featureViews/{view.id}",
            entities=[f"entities/{each}" for each in view.entities],
            data_source=f"dataSources/{view.data_source}",
            features=_messages(view.features),
            owner=view.owner,
        )
        if view.ttl is not None:
            message.ttl.FromTimedelta(view.ttl)
    for service in wanted.feature_services:
        request.feature_services.add(
            name=f"featureServices/{service.id}",
            features=[f"{ref.view}:{ref.feature}" for ref in service.features],
        )
    return request


def _messages(columns: Sequence[Field]) -> list[pb.Field]:
    return [pb.Field(name=each.name, type=NUMBERS[each.type]) for each in columns]
