"""Settings of the gateway."""

import math
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from shared.settings import MeshSettings, env

MIB = 1024 * 1024
_DRAIN_SHARE = 0.75
"""The most of `shutdown_s`; the rest is for closing connections, the last records, leaving the broker."""


class GatewaySettings(MeshSettings):
    """Where it listens, whom it lets in, and the bounds that it keeps (DESIGN 10)."""

    host: str = Field("127.0.0.1", description="address to listen on; others than loopback need CHATMESH_API_KEYS")
    port: int = env("PORT", 8080, "port to listen on; 0 takes a free one", ge=0, le=65535)
    api_keys: Path | None = Field(None, description="YAML file: key → {tenant, tier}; without it only loopback clients")
    model: str = Field("", description="the model whose tokenizer counts prompts; empty: the bundled default")
    deadline_s: float = Field(600.0, gt=0, description="a response that has not ended by then fails")
    background_deadline_s: float = Field(3600.0, gt=0, description="the same with background=true")
    body_limit_bytes: int = Field(MIB, ge=1024, description="largest request body and WebSocket frame")
    max_in_flight: int = Field(1024, ge=1, description="responses followed at once here; more are refused with 429")
    max_waiting: int = Field(
        256, ge=0, description="accepted jobs that may wait for a slot in the whole mesh; beyond, 429; 0: no bound"
    )
    lag_limit_s: float = Field(30.0, gt=0, description="a client that is so far behind is disconnected (1013)")
    drain_grace_s: float | None = Field(
        None, ge=0, description="after SIGTERM, how long running streams go on here; empty: half of CHATMESH_SHUTDOWN_S"
    )
    connection_limit_s: float = Field(3600.0, gt=0, description="how long a WebSocket may live")
    buffer_bytes: int = Field(
        256 * MIB, ge=MIB, description="events held per follower; beyond it slow clients are refilled from the log"
    )
    send_buffer_bytes: int = Field(
        128 * 1024, ge=4096, description="what the kernel may hold for a slow client; Linux grants twice it"
    )
    query_timeout_s: float = Field(5.0, gt=0, description="how long to wait for history's answer")
    cancel_timeout_s: float = Field(10.0, gt=0, description="how long a cancel waits for the response to end")

    @property
    def grace_s(self) -> float:
        """How long running streams go on when the gateway leaves."""
        return self.shutdown_s / 2 if self.drain_grace_s is None else self.drain_grace_s

    @field_validator("drain_grace_s")
    @classmethod
    def _fits_shutdown(cls, grace_s: float | None, info: ValidationInfo) -> float | None:
        limit_s = _DRAIN_SHARE * info.data.get("shutdown_s", math.inf)
        if grace_s is not None and grace_s > limit_s:
            raise ValueError(f"is more than {_DRAIN_SHARE:.0%} of CHATMESH_SHUTDOWN_S, {limit_s:g}")
        return grace_s
