"""Settings from the environment; a wrong one ends the start and names its variable.

Every service's settings extend `MeshSettings`. Variables are `CHATMESH_<FIELD>`, but for the names that the
field already has: `KAFKA_*`, `MONGODB_URL`, `PORT` and OpenTelemetry's `OTEL_*`. An empty variable counts as none, as
a shell or a manifest writes one that is not set. A secret may come from a file instead, as orchestrators hand it over:
`KAFKA_SASL_PASSWORD_FILE` names the file that holds `KAFKA_SASL_PASSWORD`.
"""

import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from shared.errors import SettingsError

S = TypeVar("S", bound="MeshSettings")
ENV_PREFIX = "CHATMESH_"
_FILE = "_FILE"
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^]\s]+)]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


def env(name: str, default: Any, description: str, **bounds: Any) -> Any:
    """A field read from a variable whose name does not start with the prefix."""
    return Field(default, validation_alias=AliasChoices(name), description=description, **bounds)


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets from the files that `<VARIABLE>_FILE` names; a line break at the end is none of the secret."""

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The secret (None: no file is named), under which key, and that it is no JSON. Raises SettingsError."""
        variable = variable_of(field, field_name)
        key = variable if isinstance(field.validation_alias, AliasChoices) else field_name
        path = os.environ.get(variable + _FILE) if field.annotation is SecretStr else None
        if not path:
            return None, key, False
        if os.environ.get(variable):
            raise SettingsError(f"{variable} and {variable}{_FILE} are both set: unset one of them")
        return _secret_in(variable + _FILE, Path(path)), key, False


def _secret_in(variable: str, path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{variable}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{variable}: {path} is not UTF-8") from error
    if not secret:
        raise SettingsError(f"{variable}: {path} is empty")
    return secret


def variable_of(field: FieldInfo, field_name: str) -> str:
    """The environment variable of a setting."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"{ENV_PREFIX}{field_name}".upper()


def addresses_of(servers: str) -> list[tuple[str, int]]:
    """Hosts and ports of `servers_of`, an IPv6 address without its brackets. Raises ValueError that quotes what is
    none."""
    if not (found := servers_of(servers)):
        raise ValueError(f"{servers!r} names no host:port")
    return [_address(server) for server in found]


def servers_of(servers: str) -> list[str]:
    """`host:port[,host:port]`, an IPv6 address in brackets, one by one. Empty ones do not count, as Kafka has it."""
    return [server for each in servers.split(",") if (server := each.strip())]


def _address(server: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(server)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        raise ValueError(f"{server!r} is not host:port")
    if found["ipv6"] is None:
        return found["host"], int(found["port"])
    try:
        return str(ipaddress.IPv6Address(found["ipv6"])), int(found["port"])
    except ValueError as error:
        raise ValueError(f"{server!r} is not [IPv6 address]:port") from error


class KafkaSettings(BaseSettings):
    """How to reach the broker, and how the mesh's topics are laid out there."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, allow_inf_nan=False
    )

    bootstrap_servers: str = env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092", "host:port[,host:port]")
    namespace: str = Field("", pattern=r"^([A-Za-z0-9._-]{1,64})?$", description="prefix of topics and groups")
    partitions: int = Field(32, ge=1, le=4096, description="partitions of the response topics")
    replication_factor: int = Field(1, ge=1, le=9, description="copies of every topic; 3 where brokers may be lost")
    min_insync_replicas: int = Field(1, ge=1, le=9, description="copies that must have a record before it counts")
    fetch_max_wait_ms: int = Field(100, ge=1, le=1000, description="how long a fetch waits when there are no records")
    request_timeout_ms: int = Field(5000, ge=500, description="a broker that is silent for so long has failed")
    # A rebalance may wait for a session to end; one that takes 30 s counts as a standstill (shared/log/watching.py).
    session_timeout_ms: int = Field(
        6000, ge=500, le=25_000, description="a group member that is silent for so long is dead"
    )
    heartbeat_interval_ms: int = Field(300, ge=50, description="group heartbeats")
    create_topics: bool = Field(True, description="make topics that are missing; false: only check them")

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = env(
        "KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = env(
        "KAFKA_SASL_MECHANISM", "SCRAM-SHA-512", "SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN"
    )
    sasl_username: str = env("KAFKA_SASL_USERNAME", "", "the principal's name")
    sasl_password: SecretStr = env("KAFKA_SASL_PASSWORD", SecretStr(""), "its password")
    ssl_cafile: Path | None = env(
        "KAFKA_SSL_CAFILE", None, "PEM file of who vouches for the broker; empty: the system's"
    )
    ssl_certfile: Path | None = env("KAFKA_SSL_CERTFILE", None, "PEM file of the client's certificate (mutual TLS)")
    ssl_keyfile: Path | None = env("KAFKA_SSL_KEYFILE", None, "PEM file of its key; empty: the certificate's file")
    ssl_key_password: SecretStr = env("KAFKA_SSL_KEY_PASSWORD", SecretStr(""), "password of that key")
    ssl_check_hostname: bool = env(
        "KAFKA_SSL_CHECK_HOSTNAME", True, "whether the broker's certificate must name its host"
    )

    @property
    def uses_tls(self) -> bool:
        """Whether connections to the broker are encrypted."""
        return self.security_protocol.endswith("SSL")

    @property
    def uses_sasl(self) -> bool:
        """Whether the broker asks for a name and a password."""
        return self.security_protocol.startswith("SASL_")

    @property
    def has_principal(self) -> bool:
        """Whether the broker knows this process by a name: then it may have rights of its own."""
        return self.uses_sasl or self.ssl_certfile is not None

    @property
    def principal(self) -> str:
        """Under whose name the broker knows this process, as its access lists write it."""
        if self.uses_sasl:
            return f"User:{self.sasl_username}"
        return "whom this client's certificate names" if self.ssl_certfile else "User:ANONYMOUS"

    @property
    def kafka_password(self) -> str:
        """The principal's password, in clear."""
        return self.sasl_password.get_secret_value()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the files that it names for secrets."""
        return init_settings, env_settings, _SecretFiles(settings_cls)

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_addresses(cls, servers: str) -> str:
        addresses_of(servers)
        return servers

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if faults := [*_sasl_faults(self), *_tls_faults(self), *_layout_faults(self), *_timing_faults(self)]:
            raise ValueError("; ".join(faults))
        return self


def _layout_faults(settings: KafkaSettings) -> list[str]:
    """Of topics that we make: no append would ever count, and only appends would tell."""
    if not settings.create_topics or settings.min_insync_replicas <= settings.replication_factor:
        return []
    return [
        f"CHATMESH_MIN_INSYNC_REPLICAS is {settings.min_insync_replicas}, more copies than "
        f"CHATMESH_REPLICATION_FACTOR={settings.replication_factor} makes"
    ]


def _timing_faults(settings: KafkaSettings) -> list[str]:
    """What would be given up each time before it could come."""
    limits = {"heartbeat_interval_ms": "session_timeout_ms", "fetch_max_wait_ms": "request_timeout_ms"}
    return [
        f"{ENV_PREFIX}{name.upper()} is {getattr(settings, name)}, and "
        f"{ENV_PREFIX}{limit.upper()}={getattr(settings, limit)} is no longer"
        for name, limit in limits.items()
        if getattr(settings, name) >= getattr(settings, limit)
    ]


def _sasl_faults(settings: KafkaSettings) -> list[str]:
    """What the protocol needs is there, and what it would not use is not: it was meant to protect something."""
    variables = {"KAFKA_SASL_USERNAME": settings.sasl_username, "KAFKA_SASL_PASSWORD": settings.kafka_password}
    given = [name for name, value in variables.items() if value]
    protocol = settings.security_protocol
    if settings.uses_sasl:
        return [f"{name} is missing: KAFKA_SECURITY_PROTOCOL={protocol}" for name in variables if name not in given]
    wrong = f"KAFKA_SECURITY_PROTOCOL={protocol} uses none: set SASL_SSL, or unset {' and '.join(given)}"
    return [f"{given[0]} is set, but {wrong}"] if given else []


def _tls_faults(settings: KafkaSettings) -> list[str]:
    files = {
        "KAFKA_SSL_CAFILE": settings.ssl_cafile,
        "KAFKA_SSL_CERTFILE": settings.ssl_certfile,
        "KAFKA_SSL_KEYFILE": settings.ssl_keyfile,
    }
    given = [name for name, path in files.items() if path is not None]
    if given and not settings.uses_tls:
        protocol = settings.security_protocol
        return [f"{given[0]} is set, but KAFKA_SECURITY_PROTOCOL={protocol} is not encrypted: set SASL_SSL or SSL"]
    faults = [f"{name}: no file {path}" for name, path in files.items() if path is not None and not path.is_file()]
    if settings.ssl_keyfile is not None and settings.ssl_certfile is None:
        faults.append("KAFKA_SSL_KEYFILE is set without KAFKA_SSL_CERTFILE")
    return faults


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
    trace_content: bool = Field(False, description="true: screened prompts and answers on spans")
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
    shown = issue["type"] != "missing" and name not in _secrets(cls)
    value = f" (got {issue.get('input')!r})" if shown else ""
    said = str(issue["msg"]).removeprefix("Value error, ")
    # What a check of several settings says names their variables itself; its input would be all of them, secrets too.
    return f"{name}: {said}{value}" if field else said


def _secrets(cls: type[BaseSettings]) -> set[str]:
    """The variables whose values nobody may see."""
    return {variable_of(info, name) for name, info in cls.model_fields.items() if info.annotation is SecretStr}


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
        variable = variable_of(info, name)
        default = info.get_default()
        written = ("" if default is None else str(default)) or "-"
        from_file = f"; or {variable}{_FILE}: a file that holds it" if info.annotation is SecretStr else ""
        lines.append(f"  {variable:30} {written:16} {info.description or ''}{from_file}".rstrip())
    return "\n".join(sorted(lines))
