"""What travels on a stream: one protobuf message with its identity, key, time and trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeVar

from google.protobuf.message import Message
from opentelemetry import trace

from service_kit.ids import uuid7_str

MessageT = TypeVar("MessageT", bound=Message)
# Within Event the word `type` is a field.
MessageClass: TypeAlias = type[MessageT]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as other services are told of it.

    Attributes:
        stream: Name of the stream without its prefix (``outcomes``).
        key: What it is about (a resource name); events of one key keep their order.
        type: Full name of the protobuf message in `payload`.
        payload: The serialized message.
        id: UUIDv7 by which a consumer recognises what it has seen.
        traceparent: W3C trace context of the request that caused it, or empty.
        occurred: When it was published, aware, UTC.
    """

    stream: str
    key: str
    type: str
    payload: bytes
    id: str = field(default_factory=uuid7_str)
    traceparent: str = ""
    occurred: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, stream: str, key: str, message: Message) -> Event:
        """An event that carries `message`, happening now within the current trace."""
        return cls(
            stream=stream,
            key=key,
            type=message.DESCRIPTOR.full_name,
            payload=message.SerializeToString(),
            traceparent=current_traceparent(),
        )

    def unpack(self, message_class: MessageClass[MessageT]) -> MessageT:
        """The message; raises ValueError when the event carries another type."""
        if message_class.DESCRIPTOR.full_name != self.type:
            raise ValueError(f"the event is a {self.type}, not {message_class.__name__}")
        return message_class.FromString(self.payload)


def encode_event(event: Event) -> dict[bytes, bytes]:
    """The fields of a stream entry, for whoever appends by a client of its own."""
    return {
        b"id": event.id.encode(),
        b"key": event.key.encode(),
        b"type": event.type.encode(),
        b"payload": event.payload,
        b"traceparent": event.traceparent.encode(),
        b"occurred": b"%d" % ((event.occurred - _EPOCH) // _MICROSECOND),
    }


def decode_event(stream: str, fields: Mapping[bytes, bytes]) -> Event:
    """Read a stream entry; raises ValueError when it is not one of ours."""
    try:
        return Event(
            stream=stream,
            key=fields[b"key"].decode(),
            type=fields[b"type"].decode(),
            payload=fields[b"payload"],
            id=fields[b"id"].decode(),
            traceparent=fields[b"traceparent"].decode(),
            occurred=_EPOCH + int(fields[b"occurred"]) * _MICROSECOND,
        )
    except (KeyError, OverflowError) as error:
        raise ValueError("the stream entry is not an event") from error


def current_traceparent() -> str:
    """The W3C ``traceparent`` of the current span, or an empty string outside any trace."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
