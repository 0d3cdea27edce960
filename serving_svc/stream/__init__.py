"""Where the events of stream scorers come from and go to: Redis streams and the gateway."""

from serving_svc.stream.inference import GatewayInference
from serving_svc.stream.redis_source import RedisScorerStreams, RedisSource

__all__ = ["GatewayInference", "RedisScorerStreams", "RedisSource"]
