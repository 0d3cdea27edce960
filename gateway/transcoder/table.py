"""The route table: which handler answers a method and path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from gateway.transcoder.paths import MANY, ONE, PathTemplate, split_path
from service_kit.errors import InvalidArgument, NotFound

T = TypeVar("T")


class Match(NamedTuple, Generic[T]):
    """A route with the values that its path binds."""

    target: T
    values: dict[str, str]


@dataclass(slots=True)
class _Node(Generic[T]):
    literals: dict[str, _Node[T]] = field(default_factory=dict)
    one: _Node[T] | None = None
    # By HTTP method and verb.
    ends: dict[tuple[str, str], tuple[PathTemplate, T]] = field(default_factory=dict)
    many: dict[tuple[str, str], tuple[PathTemplate, T]] = field(default_factory=dict)


class RouteTable(Generic[T]):
    """A tree of path segments; literals win over wildcards, longer matches over `**`."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, method: str, template: PathTemplate, target: T) -> None:
        """Add a route.

        Raises:
            ValueError: When another route has the same method and form.
        """
        node = self._root
        for segment in template.segments:
            if segment == MANY:
                break
            node = self._child(node, segment)
        ends = node.many if template.segments[-1:] == (MANY,) else node.ends
        if (method, template.verb) in ends:
            raise ValueError(f"two routes answer {method} {'/'.join(template.segments)}")
        ends[method, template.verb] = (template, target)

    def match(self, method: str, path: str) -> Match[T]:
        """The route of a request.

        Raises:
            NotFound: `ROUTE_NOT_FOUND`.
            InvalidArgument: `METHOD_NOT_ALLOWED`, with the allowed ones in its metadata.
        """
        segments, verb = _split(path)
        allowed: set[str] = set()
        for ends in _walk(self._root, segments, 0):
            found = ends.get((method, verb))
            if found is not None:
                return Match(found[1], found[0].bind(segments))
            allowed.update(known for known, known_verb in ends if known_verb == verb)
        if allowed:
            listed = ", ".join(sorted(allowed))
            raise InvalidArgument("METHOD_NOT_ALLOWED", f"allowed here: {listed}", allow=listed)
        raise NotFound("ROUTE_NOT_FOUND", "there is no such route")

    @staticmethod
    def _child(node: _Node[T], segment: str) -> _Node[T]:
        if segment != ONE:
            return node.literals.setdefault(segment, _Node())
        if node.one is None:
            node.one = _Node()
        return node.one


def _split(path: str) -> tuple[tuple[str, ...], str]:
    try:
        found = split_path(path)
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise NotFound("ROUTE_NOT_FOUND", "there is no such route")
    return found


def _walk(
    node: _Node[T], segments: tuple[str, ...], at: int
) -> Iterator[dict[tuple[str, str], tuple[PathTemplate, T]]]:
    if at == len(segments):
        if node.ends:
            yield node.ends
        return
    literal = node.literals.get(segments[at])
    if literal is not None:
        yield from _walk(literal, segments, at + 1)
    if node.one is not None:
        yield from _walk(node.one, segments, at + 1)
    if node.many:
        yield node.many
