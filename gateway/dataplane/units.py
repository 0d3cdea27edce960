"""The unit that a request names beside its rows: in a header, or in a parameter of its protocol."""

from __future__ import annotations

from typing import Any

from gateway.dataplane.ask import Ask
from gateway.dataplane.inputs import MOST_TEXT
from service_kit.errors import InvalidArgument

#: Parameter of the Open Inference Protocol that names the unit of all rows.
PARAMETER = "routing_key"


def take_header(ask: Ask, value: bytes, header: bytes) -> None:
    """Make a header's value the unit of all rows; one that is empty says nothing.

    Raises:
        InvalidArgument: `INVALID_FORMAT` when it is no UTF-8, `OUT_OF_RANGE` when it is too long.
    """
    if not value:
        return
    name = header.decode()
    try:
        unit = value.decode()
    except UnicodeDecodeError:
        raise InvalidArgument("INVALID_FORMAT", "must be UTF-8", field=name) from None
    ask.unit = _checked(unit, name)


def take_parameter(ask: Ask, value: Any) -> None:
    """Make the parameter's value the unit of all rows; nothing or an empty text says nothing.

    Raises:
        InvalidArgument: `WRONG_TYPE` or `OUT_OF_RANGE`.
    """
    if value is None:
        return
    path = f"parameters.{PARAMETER}"
    if type(value) not in (str, int):
        raise InvalidArgument("WRONG_TYPE", "must be a string or an integer", field=path)
    ask.unit = _checked(str(value), path)


def _checked(unit: str, path: str) -> str:
    if len(unit) > MOST_TEXT:
        raise InvalidArgument("OUT_OF_RANGE", "is too long", field=path)
    return unit
