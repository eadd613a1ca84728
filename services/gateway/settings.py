"""Settings of the gateway."""

import math
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from services.gateway.api.origins import parse_origins
from shared.settings import MeshSettings, env

MIB = 1024 * 1024
_FAREWELL_S = 10.0
"""A client that was let go because it did not read may still fetch what was sent, for so long."""
_DRAIN_SHARE = 0.75
"""The most of `shutdown_s`; the rest is for closing connections, the last records, leaving the broker."""


class GatewaySettings(MeshSettings):
    """Where it listens, whom it lets in, and the bounds that it keeps (DESIGN 10)."""

    host: str = Field("127.0.0.1", description="address to listen on; others than loopback need CHATMESH_API_KEYS")
    port: int = env("PORT", 8080, "port to listen on; 0 takes a free one", ge=0, le=65535)
    api_keys: Path | None = Field(None, description="YAML file: key → {tenant, tier}; without it only loopback clients")
    rate_limits: Path | None = Field(
        None, description="YAML file: {tiers, tenants} → {requests_per_minute, tokens_per_minute}; without it no limits"
    )
    ledger_timeout_s: float = Field(5.0, gt=0, description="how long a request waits for the log to admit it")
    idempotency_s: float = Field(3600.0, gt=0, description="how long an Idempotency-Key stands for its response")
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
    allowed_origins: str = Field(
        "", description="web pages that may connect, beside those of this machine: https://a.example,… or *"
    )
    connection_limit_s: float = Field(3600.0, gt=0, description="how long a WebSocket may live")
    connection_grace_s: float = Field(
        60.0, ge=0, description="how long what runs on it then goes on, before the WebSocket closes"
    )
    ping_interval_s: float = Field(20.0, gt=0, description="how often a WebSocket's peer is asked whether it is there")
    lane_memory_bytes: int = Field(
        4 * MIB, ge=0, description="what one WebSocket remembers of its responses with store=false"
    )
    buffer_bytes: int = Field(
        256 * MIB, ge=MIB, description="events held per follower; beyond it slow clients are refilled from the log"
    )
    send_buffer_bytes: int = Field(
        128 * 1024, ge=4096, description="what the kernel may hold for a slow client; Linux grants twice it"
    )
    query_timeout_s: float = Field(5.0, gt=0, description="how long to wait for history's answer")
    max_moderations: int = Field(256, ge=1, description="questions to moderation that wait here at once; beyond, 429")
    moderation_timeout_s: float = Field(10.0, gt=0, description="how long a question to moderation may take")
    cancel_timeout_s: float = Field(10.0, gt=0, description="how long a cancel waits for the response to end")

    @property
    def silent_peer_s(self) -> float:
        """A peer that takes nothing for so long is gone: longer than a slow reader may lag, so that such a one is
        told how to resume before."""
        return self.lag_limit_s + _FAREWELL_S

    @property
    def grace_s(self) -> float:
        """How long running streams go on when the gateway leaves."""
        return self.shutdown_s / 2 if self.drain_grace_s is None else self.drain_grace_s

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, text: str) -> str:
        parse_origins(text)
        return text

    @field_validator("drain_grace_s")
    @classmethod
    def _fits_shutdown(cls, grace_s: float | None, info: ValidationInfo) -> float | None:
        limit_s = _DRAIN_SHARE * info.data.get("shutdown_s", math.inf)
        if grace_s is not None and grace_s > limit_s:
            raise ValueError(f"is more than {_DRAIN_SHARE:.0%} of CHATMESH_SHUTDOWN_S, {limit_s:g}")
        return grace_s
