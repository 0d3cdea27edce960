"""What a replica is told; imported by whatever has to do with Ray, so that it costs little."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service_kit.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What a replica is told; plain values, and no secret: the token comes from its machine.

    Attributes:
        peers: Addresses of the registry and of serving.
        host: Address that its data plane listens on.
        tls: Paths of `tls_cert`, `tls_key` and `tls_ca`; empty without TLS.
        code_models: Models whose own code may run.
        runtime_config: Settings of the runtime.
    """

    model_version: str
    runtime: str
    artifact: str
    inputs: int
    outputs: int
    home: str
    peers: dict[str, str]
    host: str = "127.0.0.1"
    tls: dict[str, str] = field(default_factory=dict)
    code_models: list[str] = field(default_factory=list)
    runtime_config: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def settings(self) -> ServiceSettings:
        """Settings of the replica's process."""
        from service_kit.settings import ServiceSettings

        given: dict[str, Any] = {"home": self.home, "peers": self.peers, **self.tls}
        return ServiceSettings(service="serving", **given)
