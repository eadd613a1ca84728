"""Settings from the environment; a wrong one ends the start and names its variable.

Every service's settings extend `MeshSettings`. Variables are `CHATMESH_<FIELD>`, but for the names that the
field already has: `KAFKA_BOOTSTRAP_SERVERS`, `PORT` and OpenTelemetry's `OTEL_*`. An empty variable counts as none, as
a shell or a manifest writes one that is not set.
"""

from typing import Any, TypeVar

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import SettingsError

S = TypeVar("S", bound="MeshSettings")
ENV_PREFIX = "CHATMESH_"


def env(name: str, default: Any, description: str, **bounds: Any) -> Any:
    """A field read from a variable whose name does not start with the prefix."""
    return Field(default, validation_alias=AliasChoices(name), description=description, **bounds)


class KafkaSettings(BaseSettings):
    """How to reach the broker, and how the mesh's topics are laid out there."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    bootstrap_servers: str = env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092", "host:port[,host:port]")
    namespace: str = Field("", pattern=r"^([A-Za-z0-9._-]{1,64})?$", description="prefix of topics and groups")
    partitions: int = Field(32, ge=1, le=4096, description="partitions of the response topics")
    replication_factor: int = Field(1, ge=1, le=9, description="copies of every topic; 3 where brokers may be lost")
    min_insync_replicas: int = Field(1, ge=1, le=9, description="copies that must have a record before it counts")
    fetch_max_wait_ms: int = Field(100, ge=1, le=1000, description="how long a fetch waits when there are no records")
    request_timeout_ms: int = Field(5000, ge=500, description="a broker that is silent for so long has failed")
    session_timeout_ms: int = Field(6000, ge=500, description="a group member that is silent for so long is dead")
    heartbeat_interval_ms: int = Field(300, ge=50, description="group heartbeats")


class MeshSettings(KafkaSettings):
    """What every service needs: the broker, its identity and the mesh's common clocks."""

    service_id: str = Field("", description="unique id of this process; minted when empty")
    heartbeat_ms: int = Field(200, ge=20, le=5000, description="interval of service.heartbeats")
    silent_after_s: float = Field(1.0, gt=0, description="without heartbeats for so long, a service counts as dead")
    start_timeout_s: float = Field(30.0, gt=0, description="how long to wait for the broker at start")
    shutdown_s: float = Field(10.0, gt=0, description="one deadline for all steps of a shutdown")
    skew_margin_s: float = Field(5.0, ge=0, description="how far clocks may differ when a replay seeks by time")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR")
    log_format: str = Field("text", pattern="^(text|json)$", description="text for people, json for programs")
    management_port: int | None = Field(
        None, ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0: a free one; empty: none of them"
    )
    management_host: str = Field("127.0.0.1", description="address that this port is opened on")


def load_settings(cls: type[S], **overrides: Any) -> S:
    """Read `cls` from the environment. Raises SettingsError that names every wrong variable."""
    try:
        return cls(**overrides)
    except ValidationError as error:
        lines = [_describe(cls, issue) for issue in error.errors()]
        raise SettingsError("wrong settings:\n  " + "\n  ".join(lines)) from error


def _describe(cls: type[BaseSettings], issue: Any) -> str:
    location = issue["loc"]
    field = str(location[0]) if location else ""
    name = field if field in _aliases(cls) else f"{ENV_PREFIX}{field}".upper()
    value = "" if issue["type"] == "missing" else f" (got {issue.get('input')!r})"
    return f"{name}: {issue['msg']}{value}" if field else str(issue["msg"])


def _aliases(cls: type[BaseSettings]) -> set[str]:
    found: set[str] = set()
    for info in cls.model_fields.values():
        if isinstance(info.validation_alias, AliasChoices):
            found.update(str(choice) for choice in info.validation_alias.choices)
    return found


def describe_settings(cls: type[BaseSettings]) -> str:
    """One line per setting: variable, default as one would write it (`-`: none), meaning."""
    lines = []
    for name, info in cls.model_fields.items():
        alias = info.validation_alias
        variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"{ENV_PREFIX}{name}".upper()
        default = info.get_default()
        written = "-" if default in (None, "") else str(default)
        lines.append(f"  {variable:30} {written:16} {info.description or ''}".rstrip())
    return "\n".join(sorted(lines))
