"""Event streams on Redis: appended by the outbox, consumed effectively once into SQL."""

from service_kit.streams.consumed import consumer_table
from service_kit.streams.consumer import Handler, StreamConsumer
from service_kit.streams.events import Event, current_traceparent, decode_event, encode_event
from service_kit.streams.redis_streams import EventStreams

__all__ = [
    "Event",
    "EventStreams",
    "Handler",
    "StreamConsumer",
    "consumer_table",
    "current_traceparent",
    "decode_event",
    "encode_event",
]
