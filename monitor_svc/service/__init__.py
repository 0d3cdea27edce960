"""Use cases of monitoring and the ports that they need."""

from monitor_svc.service.following import Follower
from monitor_svc.service.ingestion import Ingestion
from monitor_svc.service.judgement import Judgement
from monitor_svc.service.monitors import Monitoring, PerformanceRow
from monitor_svc.service.responses import Evaluation, Responder
from monitor_svc.service.retention import Retention

__all__ = [
    "Evaluation",
    "Follower",
    "Ingestion",
    "Judgement",
    "Monitoring",
    "PerformanceRow",
    "Responder",
    "Retention",
]
