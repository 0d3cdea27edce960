"""The use cases of the feature service."""

from feature_svc.service.catalog import Catalog, CurrentDefinitions
from feature_svc.service.frozen import FrozenTables
from feature_svc.service.histories import Histories
from feature_svc.service.online import OnlineFeatures
from feature_svc.service.ports import HistoryStore, Loader, OnlineStore, Records
from feature_svc.service.reading import OnlineReads, Wanted
from feature_svc.service.remembered import RememberedReplies

__all__ = [
    "Catalog",
    "CurrentDefinitions",
    "FrozenTables",
    "Histories",
    "HistoryStore",
    "Loader",
    "OnlineFeatures",
    "OnlineReads",
    "OnlineStore",
    "Records",
    "RememberedReplies",
    "Wanted",
]
