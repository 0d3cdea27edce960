"""The codec against protobuf's own, on messages of every published contract."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from google.protobuf import descriptor_pb2, json_format, message_factory, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard.registry.v1 import registry_pb2
from modelyard.training.v1 import training_pb2

from gateway.transcoder.codec import codec_of, is_map
from gateway.transcoder.contracts import load_contracts, published_methods
from service_kit.errors import InvalidArgument

METHODS = list(published_methods(load_contracts()))
F = FieldDescriptor
INTS = {
    F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    F.CPPTYPE_UINT32: (0, 2**32 - 1),
    F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def everything() -> Descriptor:
    """A message with a field of every scalar type, a map of each key type and itself."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    message = file.message_type.add(name="T")
    kinds = [n for n in range(1, 19) if n not in (10, 11, 14)]
    for at, kind in enumerate(kinds):
        message.field.add(name=f"one_{kind}", number=at + 1, type=kind, label=1)
        message.field.add(name=f"many_{kind}", number=at + 101, type=kind, label=3)
    message.field.add(name="itself", number=99, type=11, label=1, type_name=".t.T")
    for at, kind in enumerate((3, 8, 9)):
        entry = message.nested_type.add(name=f"Map{kind}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=kind, label=1)
        entry.field.add(name="value", number=2, type=11, label=1, type_name=".t.T")
        message.field.add(
            name=f"map{kind}",
            number=at + 201,
            type=11,
            label=3,
            type_name=f".t.T.Map{kind}Entry",
        )
    pool = DescriptorPool()
    pool.Add(file)
    found: Descriptor = pool.FindMessageTypeByName("t.T")
    return found


EVERYTHING = everything()


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.cpp_type in INTS:
        return st.integers(*INTS[field.cpp_type])
    if field.cpp_type == F.CPPTYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.cpp_type == F.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == F.CPPTYPE_DOUBLE:
        return NUMBERS
    if field.cpp_type == F.CPPTYPE_FLOAT:
        return st.floats(width=32, allow_nan=False, allow_infinity=False)
    return st.binary(max_size=8) if field.type == F.TYPE_BYTES else TEXT


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 2) -> Any:
    message = message_factory.GetMessageClass(descriptor)()
    fill(draw, message, descriptor, depth)
    return message


def fill(draw: st.DrawFn, message: Any, descriptor: Descriptor, depth: int) -> None:
    name = descriptor.full_name
    if name.endswith(".Timestamp"):
        message.FromMicroseconds(draw(st.integers(0, 4_000_000_000_000_000)))
    elif name.endswith(".Duration"):
        message.FromMicroseconds(draw(st.integers(-(10**12), 10**12)))
    elif name.endswith(".Struct"):
        message.update(draw(st.dictionaries(TEXT, JSON, max_size=2)))
    elif name.endswith(".FieldMask"):
        message.paths.extend(draw(st.lists(st.sampled_from(["a", "a.b", "c1"]), max_size=2)))
    else:
        for field in descriptor.fields:
            if draw(st.integers(0, 2)) == 0:
                fill_field(draw, message, field, depth)


def fill_field(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    target = field.name
    if is_map(field):
        entry = field.message_type.fields_by_name
        keys = draw(st.lists(scalars(entry["key"]), max_size=2, unique=True))
        for key in keys:
            if entry["value"].message_type:
                if depth:
                    fill(draw, getattr(message, target)[key], entry["value"].message_type, 0)
            else:
                getattr(message, target)[key] = draw(scalars(entry["value"]))
    elif field.message_type:
        if depth and not field.is_repeated:
            getattr(message, target).SetInParent()
            fill(draw, getattr(message, target), field.message_type, depth - 1)
        elif depth:
            for _ in range(draw(st.integers(0, 2))):
                fill(draw, getattr(message, target).add(), field.message_type, depth - 1)
    elif field.is_repeated:
        getattr(message, target).extend(draw(st.lists(scalars(field), max_size=3)))
    else:
        setattr(message, target, draw(scalars(field)))


def check_round_trip(message: Any) -> None:
    codec = codec_of(message.DESCRIPTOR)
    document = orjson.loads(orjson.dumps(codec.encode(message)))
    ours, theirs = type(message)(), type(message)()
    codec.fill(ours, document, "")
    assert ours == message
    # What protobuf's own codec writes is read, and what ours writes is read by it.
    codec.fill(theirs, json.loads(json_format.MessageToJson(message)), "")
    assert theirs == message
    assert json_format.ParseDict(document, type(message)()) == message


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_contract_goes_there_and_back(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS))
    descriptor = data.draw(st.sampled_from([method.input, method.output]))
    check_round_trip(data.draw(messages(descriptor)))


@given(messages(EVERYTHING))
@settings(max_examples=100, deadline=None)
def test_every_type_goes_there_and_back(message: Any) -> None:
    check_round_trip(message)


@given(JSON, st.sampled_from(METHODS))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_is_read_or_refused(value: Any, method: Any) -> None:
    message = method.request_class()
    try:
        codec_of(method.input).fill(message, value, "")
    except InvalidArgument as error:
        assert error.reason  # noqa: PT017
    else:
        assert isinstance(value, dict)


@pytest.mark.parametrize(
    ("value", "reason", "field"),
    [
        ({"one_5": 2**31}, "OUT_OF_RANGE", "one_5"),
        ({"one_5": 1.5}, "WRONG_TYPE", "one_5"),
        ({"one_5": True}, "WRONG_TYPE", "one_5"),
        ({"one_3": "9223372036854775808"}, "OUT_OF_RANGE", "one_3"),
        ({"one_1": "NaN"}, "WRONG_TYPE", "one_1"),
        ({"one_1": "Infinity"}, "WRONG_TYPE", "one_1"),
        ({"one_1": "1e999"}, "NOT_FINITE", "one_1"),
        ({"one_1": math.inf}, "NOT_FINITE", "one_1"),
        ({"one_1": True}, "WRONG_TYPE", "one_1"),
        ({"one_2": 1e39}, "OUT_OF_RANGE", "one_2"),
        ({"one_8": "true"}, "WRONG_TYPE", "one_8"),
        ({"one_12": "*"}, "INVALID_BASE64", "one_12"),
        ({"many_5": [1, None]}, "WRONG_TYPE", "many_5[1]"),
        ({"many_5": 1}, "WRONG_TYPE", "many_5"),
        ({"one_5": 1, "one5": 1}, "DUPLICATE_FIELD", "one_5"),
        ({"itself": {"itself": {"nope": 1}}}, "UNKNOWN_FIELD", "itself.itself.nope"),
        ({"map9": {"k": {"one_5": "x"}}}, "WRONG_TYPE", "map9.k.one_5"),
        ({"map3": {"k": {}}}, "WRONG_TYPE", "map3.k"),
        ({"map8": {"1": {}}}, "WRONG_TYPE", "map8.?"),
        ([], "WRONG_TYPE", ""),
    ],
)
def test_refusals_name_the_field(value: Any, reason: str, field: str) -> None:
    message = message_factory.GetMessageClass(EVERYTHING)()
    with pytest.raises(InvalidArgument) as caught:
        codec_of(EVERYTHING).fill(message, value, "")
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_null_is_as_if_absent() -> None:
    model = registry_pb2.Model()
    codec_of(model.DESCRIPTOR).fill(model, {"tags": None, "create_time": None, "name": None}, "")
    assert model == registry_pb2.Model()


def test_presence_decides_what_is_printed() -> None:
    document = codec_of(registry_pb2.Model.DESCRIPTOR).encode(registry_pb2.Model())
    assert document["name"] == ""
    assert document["tags"] == {}
    assert "create_time" not in document


def test_enums_and_durations() -> None:
    pipeline = codec_of(training_pb2.WaitPipelineRunRequest.DESCRIPTOR)
    request = training_pb2.WaitPipelineRunRequest()
    pipeline.fill(request, {"timeout": "1.5s"}, "")
    assert request.timeout.ToMilliseconds() == 1500
    for wrong in ("1.5", "x", 5, "99999999999999s", "400000000000s"):
        with pytest.raises(InvalidArgument):
            pipeline.fill(training_pb2.WaitPipelineRunRequest(), {"timeout": wrong}, "")


def test_deep_values_are_refused() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    with pytest.raises(InvalidArgument, match="TOO_DEEP"):
        codec_of(struct_pb2.Struct.DESCRIPTOR).fill(struct_pb2.Struct(), deep, "x")
