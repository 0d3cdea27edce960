"""The record of serving in SQL."""

from serving_svc.storage.store import SqlStore
from serving_svc.storage.tables import Base

__all__ = ["Base", "SqlStore"]
