"""The online store: Feast's layout in Redis, read and written without Feast."""

from feature_svc.online.layout import project_name
from feature_svc.online.plan import FeatureColumn, ReadPlan, compile_plan
from feature_svc.online.rows import encode_rows
from feature_svc.online.store import RedisOnlineStore

__all__ = [
    "FeatureColumn",
    "ReadPlan",
    "RedisOnlineStore",
    "compile_plan",
    "encode_rows",
    "project_name",
]
