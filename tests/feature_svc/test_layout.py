"""Our layout of the online store against Feast's own code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from feature_svc.domain import ValueType
from feature_svc.domain.online import layout

INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | INT64, min_size=1, max_size=3)


@given(KEYS)
def test_keys_are_those_of_feast(keys: dict[str, str | int]) -> None:
    theirs = EntityKey(
        join_keys=list(keys),
        entity_values=[
            Value(string_val=each) if isinstance(each, str) else Value(int64_val=each)
            for each in keys.values()
        ],
    )
    names = sorted(keys)
    ours = layout.key_prefix(names) + b"".join(layout.key_value(keys[each]) for each in names)
    assert ours == serialize_entity_key(theirs, entity_key_serialization_version=3)


@given(st.text(max_size=20), st.text(max_size=20))
def test_fields_are_those_of_feast(view: str, feature: str) -> None:
    assert layout.feature_field(view, feature) == _mmh3(f"{view}:{feature}")


@given(st.floats(allow_nan=False), INT64, st.text(max_size=200), st.booleans())
def test_values_are_those_of_feast(double: float, int64: int, string: str, boolean: bool) -> None:
    for kind, value, theirs in (
        (ValueType.DOUBLE, double, Value(double_val=double)),
        (ValueType.INT64, int64, Value(int64_val=int64)),
        (ValueType.STRING, string, Value(string_val=string)),
        (ValueType.BOOL, boolean, Value(bool_val=boolean)),
    ):
        stored = layout.ENCODERS[kind](value)
        assert stored == theirs.SerializeToString()
        assert layout.DECODERS[kind](stored) == value


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001
def test_times_are_those_of_feast(naive: datetime) -> None:
    moment = naive.replace(tzinfo=UTC)
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    micros = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert layout.encode_time(micros) == stamp.SerializeToString()
    assert layout.decode_time(stamp.SerializeToString()) == micros


def test_what_is_no_value_of_the_type_is_null() -> None:
    strange = (
        b"",
        Value(double_val=float("nan")),
        Value(bytes_val=b"abcdefghi"),
        Value(null_val=0),
    )
    for each in strange:
        stored = each if isinstance(each, bytes) else each.SerializeToString()
        assert [decode(stored) for decode in layout.DECODERS.values()] == [None] * 4
