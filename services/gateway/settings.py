"""Settings of the gateway."""

from pathlib import Path

from pydantic import Field

from shared.settings import MeshSettings, env

MIB = 1024 * 1024


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
    connection_limit_s: float = Field(3600.0, gt=0, description="how long a WebSocket may live")
    buffer_bytes: int = Field(
        256 * MIB, ge=MIB, description="events held per follower; beyond it slow clients are refilled from the log"
    )
    query_timeout_s: float = Field(5.0, gt=0, description="how long to wait for history's answer")
    cancel_timeout_s: float = Field(10.0, gt=0, description="how long a cancel waits for the response to end")
    start_timeout_s: float = Field(30.0, gt=0, description="how long to wait for the broker at start")
