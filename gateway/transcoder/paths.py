"""Path templates of `google.api.http` rules: parsing and matching."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

_TOKEN = re.compile(r"\{([a-z][a-z0-9_.]*)(?:=([^{}]+))?\}")
_LITERAL = re.compile(r"[A-Za-z0-9._~-]+")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\]")

ONE, MANY = "*", "**"


@dataclass(frozen=True, slots=True)
class Variable:
    """A field that segments `start` to `end` of a path are bound to."""

    field: str
    start: int
    end: int | None


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A parsed template.

    Attributes:
        segments: Literals, `*` for one segment, `**` (last only) for the rest.
        variables: Fields bound to segments.
        verb: Custom verb behind the last colon, or empty.
    """

    segments: tuple[str, ...]
    variables: tuple[Variable, ...]
    verb: str

    def bind(self, segments: tuple[str, ...]) -> dict[str, str]:
        """The fields' values of a path that matches."""
        return {
            variable.field: "/".join(segments[variable.start : variable.end])
            for variable in self.variables
        }


def parse_template(text: str) -> PathTemplate:
    """Parse a template like `/v1/{name=models/*/versions/*}:predict`.

    Raises:
        ValueError: When the text is no template, which is a mistake in a contract.
    """
    if not text.startswith("/"):
        raise ValueError(f"{text} does not start with a slash")
    body, verb = _split_verb(text[1:])
    segments: list[str] = []
    variables: list[Variable] = []
    for part in _split_segments(body):
        found = _TOKEN.fullmatch(part)
        inner = (found[2] or ONE).split("/") if found else [part]
        if found:
            end = None if MANY in inner else len(segments) + len(inner)
            variables.append(Variable(found[1], len(segments), end))
        segments.extend(_checked(segment, text) for segment in inner)
    if MANY in segments[:-1]:
        raise ValueError(f"{text} has ** before its end")
    return PathTemplate(tuple(segments), tuple(variables), verb)


def split_path(path: str) -> tuple[tuple[str, ...], str] | None:
    """The decoded segments and the verb of a request's raw path; nothing when it is malformed."""
    *raw, last = path.split("/")[1:]
    last, _, verb = last.partition(":")
    segments = tuple(unquote(segment, errors="strict") for segment in (*raw, last))
    if any(not segment or _FORBIDDEN.search(segment) for segment in segments):
        return None
    return segments, verb


def _split_verb(text: str) -> tuple[str, str]:
    head, colon, verb = text.rpartition(":")
    if colon and _LITERAL.fullmatch(verb):
        return head, verb
    return text, ""


def _split_segments(text: str) -> list[str]:
    return re.findall(r"(?:[^/{}]|\{[^{}]*\})+", text)


def _checked(segment: str, text: str) -> str:
    if segment in (ONE, MANY) or _LITERAL.fullmatch(segment):
        return segment
    raise ValueError(f"{text} has a segment that is no literal and no wildcard")
