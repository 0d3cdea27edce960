"""What the consumer of the stream `predictions` does with its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from modelyard.events.v1 import events_pb2
from sqlalchemy.orm import Session

from service_kit.streams import Event
from serving_svc.domain.predictions import LogFile
from serving_svc.prediction_log.files import PredictionFiles


class Listing(Protocol):
    """Where files are listed."""

    def add(self, session: Session, files: Sequence[LogFile]) -> None: ...


class PredictionRecorder:
    """Writes the rows of events and lists the files in the transaction that marks the events.

    What ends before the commit leaves files that are not listed and events that come again; what
    ends after it leaves events that are known. So every row is in the log once.
    """

    def __init__(self, files: PredictionFiles, listing: Listing) -> None:
        self._files = files
        self._listing = listing

    def handle(self, session: Session, events: Sequence[Event]) -> None:
        """Take events; raises ValueError for one that is not sound, Unavailable for the disk."""
        batches = [event.unpack(events_pb2.PredictionBatch) for event in events]
        self._listing.add(session, self._files.write(batches))
