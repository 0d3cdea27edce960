"""The protocol's REST documents: a JSON head, and tensors in it or as raw bytes behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import orjson

from gateway.dataplane.ask import Answer, Ask, BlockAnswer
from gateway.dataplane.routing import Route, Variant
from gateway.dataplane.template import ID, NUMBER, template
from gateway.dataplane.units import PARAMETER, take_parameter
from gateway.http import Header, Reply
from gateway.inference_v2 import answers, tensors
from gateway.inference_v2.answers import Output
from gateway.inference_v2.raw import read_raw, write_raw
from gateway.inference_v2.tensors import Tensor
from gateway.transcoder.requests import parse_json
from service_kit.errors import InvalidArgument
from service_kit.ids import uuid7_str

#: Header that says how many bytes of a body are its JSON head; raw tensors follow.
HEAD_LENGTH = b"inference-header-content-length"
_OCTETS = (b"content-type", b"application/octet-stream")
_MOST = 2**31 - 1
_IDS = "prediction_ids"
#: Stands where a document has what differs from answer to answer.
_BLANK = uuid7_str()
SIZE, _BINARY, _ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"


@dataclass(slots=True)
class Form:
    """How an answer is wanted.

    Attributes:
        request_id: Goes back as it came.
        outputs: Names and whether as raw bytes, in order; all outputs when empty.
        all_binary: Whether outputs that are not named are wanted as raw bytes.
    """

    name: str
    request_id: str
    outputs: Sequence[tuple[str, bool]]
    all_binary: bool

    @property
    def plain(self) -> bool:
        """Whether nothing is wanted otherwise than usual."""
        return not (self.outputs or self.all_binary or self.request_id)

    def template(self, route: Route, variant: Variant) -> bytes:
        """A plain answer for one row, to be filled with its id and its outputs."""
        who = variant.name, variant.version, variant.plan.outputs
        return _template(self.name, route.endpoint, route.generation, *who)

    def reply(self, answer: Answer) -> Reply:
        """The answer as it goes out.

        Raises:
            InvalidArgument: `UNKNOWN_OUTPUT`.
        """
        if not self.plain or len(answer.scored) > 1:
            return self._made_to_order(answer)
        # The common answer: all but ids and numbers is the same each time.
        told = answers.parameters(answer)
        told[_IDS] = _BLANK
        group = answer.scored[0]
        first, *others = _frame(self.name, tuple(told.items()), group.output_names)
        filled = [first, b'"', ",".join(answer.ids).encode(), b'"']
        shape = b"[%d]" % len(answer.ids)
        columns = zip(*group.outputs, strict=True)
        for at, values in enumerate(columns):
            filled += (others[2 * at], shape, others[2 * at + 1], orjson.dumps(values))
        filled.append(others[-1])
        return Reply(b"".join(filled))

    @property
    def block(self) -> Form:
        """How an answer to a matrix of rows is wanted."""
        return self

    def block_reply(self, answer: BlockAnswer) -> Reply:
        """The answer to a matrix of rows as it goes out; raises as `reply`."""
        return self._reply(answers.block_outputs(answer), answers.block_parameters(answer))

    def _made_to_order(self, answer: Answer) -> Reply:
        return self._reply(answers.output_tensors(answer), answers.parameters(answer))

    def _reply(self, given: list[Output], parameters: dict[str, str]) -> Reply:
        found = answers.requested(given, [name for name, _ in self.outputs])
        raw = [binary for _, binary in self.outputs] or [self.all_binary] * len(found)
        tails: list[bytes] = []
        outputs = [_output(each, binary, tails) for each, binary in zip(found, raw, strict=True)]
        document = _document(self.name, parameters, outputs)
        if self.request_id:
            document["id"] = self.request_id
        head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        if not tails:
            return Reply(head)
        length: Header = (HEAD_LENGTH, b"%d" % len(head))
        return Reply(b"".join((head, *tails)), headers=(_OCTETS, length))


def _document(
    name: str, parameters: dict[str, str], outputs: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    version = parameters["model_version"]
    return {
        "model_name": name,
        "model_version": version,
        "parameters": parameters,
        "outputs": outputs,
    }


@lru_cache(maxsize=1_024)
def _frame(
    name: str, told: tuple[tuple[str, str], ...], outputs: tuple[str, ...]
) -> Sequence[bytes]:
    """A document around its blanks: the ids, then shape and data of each output."""
    tensors = [
        {"name": each, "datatype": answers.DATATYPE, "shape": _BLANK, "data": _BLANK}
        for each in outputs
    ]
    return orjson.dumps(_document(name, dict(told), tensors)).split(b'"%b"' % _BLANK.encode())


@lru_cache(maxsize=1_024)
def _template(
    name: str, endpoint: str, generation: int, variant: str, version: str, outputs: tuple[str, ...]
) -> bytes:
    told = answers.told_of(endpoint, generation, ID, variant, version)
    tensors = [
        {"name": each, "datatype": answers.DATATYPE, "shape": [1], "data": [NUMBER]}
        for each in outputs
    ]
    return template(_document(name, told, tensors))


def read_request(
    route: Route, name: str, version: str, body: bytes, head_length: str, began: float, limit: float
) -> tuple[Ask, Form]:
    """The request in a body.

    Args:
        head_length: The header `Inference-Header-Content-Length`; empty without raw tensors.

    Raises:
        InvalidArgument: Naming the field at fault.
    """
    head, tail = _parts(body, head_length)
    document = _object(parse_json(head), "body")
    given = _object(document.get("parameters") or {}, "parameters")
    inputs = []
    for index, each in enumerate(_list(document, "inputs", "")):
        tensor, tail = _tensor(each, f"inputs[{index}]", tail)
        inputs.append(tensor)
    if tail:
        raise InvalidArgument("WRONG_SHAPE", "has more bytes than its tensors", field="body")
    all_binary = _flag(given.get(_ALL_BINARY), f"parameters.{_ALL_BINARY}")
    outputs: list[tuple[str, bool]] = []
    if document.get("outputs"):
        outputs = [
            _wanted(each, f"outputs[{index}]", all_binary)
            for index, each in enumerate(_list(document, "outputs", ""))
        ]
    request_id = _text(document, "id", "") if document.get("id") else ""
    ask = tensors.make_ask(route, name, version, inputs, began, limit)
    if given:
        tensors.set_event_time(ask, given.get(tensors.EVENT_TIME))
        take_parameter(ask, given.get(PARAMETER))
    return ask, Form(name, request_id, outputs, all_binary)


def _parts(body: bytes, head_length: str) -> tuple[bytes, memoryview]:
    if not head_length:
        return body, memoryview(b"")
    if not head_length.isdecimal() or int(head_length[:20]) > len(body):
        raise InvalidArgument(
            "WRONG_LENGTH",
            "must be the length of the JSON in the body",
            field="Inference-Header-Content-Length",
        )
    at = int(head_length)
    return body[:at], memoryview(body)[at:]


def _tensor(value: Any, path: str, tail: memoryview) -> tuple[Tensor, memoryview]:
    each = _object(value, path)
    shape = _list(each, "shape", path)
    if not all(type(size) is int and 0 <= size <= _MOST for size in shape):
        raise InvalidArgument("WRONG_TYPE", "must be whole numbers", field=f"{path}.shape")
    name = _text(each, "name", path)
    datatype = _text(each, "datatype", path)
    parameters = each.get("parameters")
    size = _object(parameters, f"{path}.parameters").get(SIZE) if parameters else None
    if size is None:
        data = _list(each, "data", path)
        if data and type(data[0]) is list:
            data = flat(data, f"{path}.data")
        return Tensor(name, datatype, shape, data), tail
    where = f"{path}.parameters.{SIZE}"
    if type(size) is not int or not 0 <= size <= len(tail):
        raise InvalidArgument("WRONG_LENGTH", "must be the tensor's bytes in the body", field=where)
    return Tensor(name, datatype, shape, read_raw(datatype, tail[:size], where)), tail[size:]


def _output(output: Output, binary: bool, tails: list[bytes]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": output.name,
        "datatype": answers.DATATYPE,
        "shape": output.shape,
    }
    if binary:
        tails.append(write_raw(output.data))
        made["parameters"] = {SIZE: len(tails[-1])}
    else:
        made["data"] = output.data
    return made


def _wanted(value: Any, path: str, binary: bool) -> tuple[str, bool]:
    each = _object(value, path)
    given = _object(each.get("parameters") or {}, f"{path}.parameters")
    if _BINARY in given:
        binary = _flag(given[_BINARY], f"{path}.parameters.{_BINARY}")
    return _text(each, "name", path), binary


def flat(rows: list[Any], path: str) -> list[Any]:
    """The values of rows of one length; raises InvalidArgument (`WRONG_SHAPE`) for any other."""
    width = len(rows[0])
    if not all(type(row) is list and len(row) == width for row in rows):
        raise InvalidArgument("WRONG_SHAPE", "must be rows of one length", field=path)
    return list(chain.from_iterable(rows))


def _object(value: Any, path: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise InvalidArgument("WRONG_TYPE", "must be an object", field=path)
    return value


def _list(parent: dict[str, Any], key: str, path: str) -> list[Any]:
    value = parent.get(key)
    if type(value) is not list:
        raise InvalidArgument("WRONG_TYPE", "must be a list", field=_below(path, key))
    return value


def _text(parent: dict[str, Any], key: str, path: str) -> str:
    value = parent.get(key)
    if type(value) is not str:
        raise InvalidArgument("WRONG_TYPE", "must be a string", field=_below(path, key))
    return value


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _flag(value: Any, path: str) -> bool:
    if value is None or type(value) is bool:
        return bool(value)
    raise InvalidArgument("WRONG_TYPE", "must be true or false", field=path)
