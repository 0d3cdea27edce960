"""Documents that were read before: read the same way, whatever has changed in them."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard.dataplane.v1 import dataplane_pb2

from gateway.dataplane.routing import compile_state
from gateway.inference_v2 import document, known
from gateway.inference_v2.document import read_request
from gateway.inference_v2.known import KnownDocuments
from service_kit.errors import InvalidArgument
from tests.gateway import tables

_SIGNATURE = tables.plain_signature(2)
ROUTE = compile_state(
    dataplane_pb2.DataPlaneState(
        endpoints=[tables.route("e", tables.variant("v1", 10_000, of=_SIGNATURE))]
    )
).routes["e"]
FLOATS = [0.5, 2.0]


def outcome(read: Any, body: bytes, head_length: str = "") -> Any:
    """What a body says, or how it is refused."""
    try:
        ask, form = read(ROUTE, "e", "", body, head_length, 1.0, 2.0)
    except InvalidArgument as error:
        return error.reason, error.field
    said = (ask.matrix, ask.instances, ask.unit, ask.event_times_us, ask.where(0, "x"))
    return said, (form.name, form.request_id, list(form.outputs), form.all_binary)


def tensor(data: Any, rows: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": "features", "datatype": "FP32", "shape": [rows, 2], "data": data, **more}


def body(data: Any, **more: Any) -> bytes:
    return orjson.dumps({"inputs": [tensor(data)], **more})


numbers = st.lists(
    st.one_of(
        st.floats(width=32),
        st.integers(-9, 9),
        st.none(),
        st.just(1e39),
        st.just("x"),
        st.booleans(),
        st.just([1]),
    ),
    min_size=1,
    max_size=5,
)
others: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("mine"),
        "outputs": st.just([{"name": "y"}]),
        "parameters": st.sampled_from(
            [{"routing_key": "u"}, {"event_time": "2026-01-01T00:00:00Z"}, {"data": [1, 2]}]
        ),
    },
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Documents of a few shapes, most of them in order."""
    data = draw(st.one_of(st.just(FLOATS), numbers, st.just([FLOATS]), st.just([[1], [2]])))
    items = list(tensor(data, draw(st.sampled_from((1, 1, 1, 2)))).items())
    given = dict(draw(st.permutations(items)))
    if draw(st.integers(0, 9)) == 0:
        given["data "] = given.pop("data")
    whole = list({"inputs": [given], **draw(others)}.items())
    text = orjson.dumps(dict(draw(st.permutations(whole))), option=draw(st.sampled_from((0, 2))))
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw(st.sampled_from((b"]", b",", b"1", b'"', b"[2]"))) + text[at:]
    return text


@settings(max_examples=300, deadline=None)
@given(bodies=st.lists(documents(), min_size=1, max_size=8))
def test_what_is_known_changes_nothing(bodies: list[bytes]) -> None:
    reader = KnownDocuments()
    for each in bodies + bodies:
        assert outcome(reader.read, each) == outcome(read_request, each)


@settings(max_examples=100, deadline=None)
@given(tails=st.lists(st.binary(min_size=0, max_size=20), max_size=6), wanted=st.booleans())
def test_raw_tensors_are_read_alike(tails: list[bytes], wanted: bool) -> None:
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "features",
                    "datatype": "FP32",
                    "shape": [1, 2],
                    "parameters": {"binary_data_size": 8},
                }
            ],
            "parameters": {"binary_data_output": wanted},
        }
    )
    reader = KnownDocuments()
    good = b"\0\0\x80\x3f\0\0\0\x40"
    for tail in (good, *tails, good):
        for length in (str(len(head)), str(len(head) + 5), f"0{len(head)}", "x", "9" * 5_000, ""):
            expected = outcome(read_request, head + tail, length)
            assert outcome(reader.read, head + tail, length) == expected


def test_a_document_with_raw_tensors_is_no_other_one() -> None:
    reader, plain = KnownDocuments(), body(FLOATS)
    for length in ("", str(plain.index(b"[", plain.index(b'"data"'))), "", str(len(plain))):
        assert outcome(reader.read, plain, length) == outcome(read_request, plain, length)


def test_only_numbers_that_differ_are_read(monkeypatch: Any) -> None:
    parsed: list[bytes] = []
    parse = document.parse_json
    monkeypatch.setattr(document, "parse_json", lambda text: parsed.append(text) or parse(text))
    reader = KnownDocuments()
    first = body(FLOATS)
    for each in (first, body([3, 4.5]), body([[1, 2]])):
        assert outcome(reader.read, each)[0][0] is not None
    assert parsed == [first]
    assert outcome(reader.read, body([1, "x"])) == ("WRONG_TYPE", "inputs[0].data")
    assert parsed == [first]
    # Whatever else differs: all of it is read.
    outcome(reader.read, body(FLOATS, id="mine"))
    outcome(reader.read, body(FLOATS, parameters={"routing_key": "u"}))
    assert len(parsed) == 3


def test_what_is_kept_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(known, "MOST", 3)
    reader = KnownDocuments()
    for at in range(10):
        outcome(reader.read, body(FLOATS).replace(b"{", b"{" + b" " * at, 1))
    outcome(reader.read, b" " * 5_000 + body(FLOATS))
    assert 1 <= len(reader._known) <= 3
    assert all(len(begin) < 100 for *_, begin in reader._known)
