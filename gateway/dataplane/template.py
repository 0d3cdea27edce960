"""Answers that differ in an id and a few numbers only, as templates that are filled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from service_kit.ids import uuid7_str

#: Stands in a document where an answer has what is its own; no text of anybody else is the same.
ID, NUMBER = uuid7_str(), uuid7_str()


def template(document: Any) -> bytes:
    """A document with `ID` once and `NUMBER`s after it, as a template of JSON for `%`."""
    text = orjson.dumps(document).replace(b"%", b"%%")
    return text.replace(ID.encode(), b"%b").replace(b'"%b"' % NUMBER.encode(), b"%b")


def number_texts(outputs: Sequence[Sequence[float]]) -> list[tuple[bytes, ...]]:
    """Finite numbers as JSON, one tuple a row."""
    width = len(outputs[0])
    flat = [value for row in outputs for value in row] if width > 1 else [row[0] for row in outputs]
    texts = orjson.dumps(flat)[1:-1].split(b",")
    return list(zip(*[iter(texts)] * width, strict=True))
