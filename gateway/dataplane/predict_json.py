"""`PredictRequest` and `PredictResponse` as JSON, without messages or models in between."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson

from gateway.dataplane.ask import Answer, Ask
from gateway.dataplane.prepare import shown_features
from gateway.dataplane.template import ID, NUMBER, template
from gateway.transcoder.requests import parse_json
from service_kit.errors import InvalidArgument

_FIELDS = {
    "endpoint": "endpoint",
    "instances": "instances",
    "event_times": "event_times",
    "eventTimes": "event_times",
    "return_features": "return_features",
    "returnFeatures": "return_features",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def parse_ask(endpoint: str, body: bytes, began: float, time_limit: float) -> Ask:
    """The request in a body.

    Raises:
        InvalidArgument: Naming the field at fault.
    """
    document = parse_json(body)
    if type(document) is not dict:
        raise InvalidArgument("WRONG_TYPE", "the body must be an object")
    given: dict[str, Any] = {}
    for key, value in document.items():
        name = _FIELDS.get(key)
        if name is None:
            shown = key if key.isidentifier() and key.isascii() and len(key) <= 64 else "?"
            raise InvalidArgument("UNKNOWN_FIELD", "there is no such field", field=shown)
        given[name] = value
    if given.get("endpoint") not in (None, "", f"endpoints/{endpoint}"):
        raise InvalidArgument("CONFLICTING_FIELD", "is another in the path", field="endpoint")
    times = given.get("event_times")
    return Ask(
        endpoint,
        _instances(given.get("instances")),
        event_times_us=_times(times) if times else None,
        return_features=_flag(given.get("return_features")),
        began=began,
        time_limit=time_limit,
    )


def encode_answer(answer: Answer, *, return_features: bool) -> bytes:
    """An answer as JSON."""
    return orjson.dumps(answer_document(answer, return_features=return_features))


def answer_document(answer: Answer, *, return_features: bool) -> dict[str, Any]:
    """An answer as the document that ProtoJSON would make of `PredictResponse`."""

    predictions = []
    keeps_answers = answer.route.cache_rows
    for prediction_id, (group, at) in zip(answer.ids, answer.places(), strict=True):
        served = group.served
        prediction: dict[str, Any] = {
            "prediction_id": prediction_id,
            "outputs": dict(zip(group.output_names, group.outputs[at], strict=False)),
            "variant": served.name if served else "",
            "model_version": served.model_version if served else "",
            "fallback": group.fallback,
        }
        if keeps_answers:
            prediction["cached"] = bool(group.cached) and group.cached[at]
        if return_features:
            prediction["features"] = shown_features(group.prepared, at) if group.prepared else {}
        predictions.append(prediction)
    return _document(predictions, answer.route.endpoint, answer.route.generation)


@lru_cache(maxsize=1_024)
def lone_template(
    endpoint: str, generation: int, variant: str, version: str, outputs: tuple[str, ...]
) -> bytes:
    """An answer for one row without its features, to be filled with its id and its outputs.

    Args:
        version: `models/{model}/versions/{version}`.
    """
    prediction = {
        "prediction_id": ID,
        "outputs": dict.fromkeys(outputs, NUMBER),
        "variant": variant,
        "model_version": version,
        "fallback": "",
    }
    return template(_document([prediction], endpoint, generation))


def _document(predictions: list[dict[str, Any]], endpoint: str, generation: int) -> dict[str, Any]:
    return {
        "predictions": predictions,
        "endpoint": endpoint,
        "table_generation": str(generation),
    }


def _instances(value: Any) -> Sequence[Mapping[str, Any]]:
    if type(value) is not list:
        raise InvalidArgument("WRONG_TYPE", "must be a list of objects", field="instances")
    for index, each in enumerate(value):
        if type(each) is not dict:
            raise InvalidArgument("WRONG_TYPE", "must be an object", field=f"instances[{index}]")
    return value


def _flag(value: Any) -> bool:
    if value is None or type(value) is bool:
        return bool(value)
    raise InvalidArgument("WRONG_TYPE", "must be true or false", field="return_features")


def _times(value: Any) -> list[int]:
    if type(value) is not list:
        raise InvalidArgument("WRONG_TYPE", "must be a list of timestamps", field="event_times")
    return [parse_time(each, f"event_times[{index}]") for index, each in enumerate(value)]


def parse_time(value: Any, path: str) -> int:
    """Microseconds since the epoch of an RFC 3339 timestamp."""
    if type(value) is not str:
        raise InvalidArgument("WRONG_TYPE", "must be an RFC 3339 timestamp", field=path)
    try:
        if not _TIMESTAMP.fullmatch(value):
            raise ValueError
        return (datetime.fromisoformat(value.upper()) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise InvalidArgument(
            "INVALID_FORMAT", "must be an RFC 3339 timestamp with a time zone", field=path
        ) from None
