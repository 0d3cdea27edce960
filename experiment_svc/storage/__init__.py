"""The tables of experiments, and the repositories that read and write them."""

from experiment_svc.storage.journal import SqlJournal
from experiment_svc.storage.records import SqlRecords
from experiment_svc.storage.tables import Base, consumed, idempotency

__all__ = ["Base", "SqlJournal", "SqlRecords", "consumed", "idempotency"]
