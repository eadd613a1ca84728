"""Who asks: API keys → tenants. Without a key file only clients on this machine are let in.

Which web pages may ask is another matter: `api.origins`.
"""

import ipaddress
import logging
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from services.gateway.errors import ApiError
from shared.errors import SettingsError

log = logging.getLogger(__name__)

LOCAL_TENANT = "local"
KEY_PROTOCOL = "openai-insecure-api-key."
"""A WebSocket subprotocol that is a key: browsers can set no headers, and OpenAI's clients for them send it so."""
_VARIABLE = "CHATMESH_API_KEYS"
_QUERY_KEYS = ("api_key", "api-key", "apikey", "key", "token", "access_token", "authorization")
PRIORITY_OF_TIER = {"default": 0, "priority": 1}


class KeyEntry(BaseModel):
    """What the key file says about one key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str = Field(min_length=1, max_length=64)
    tier: str = Field("default", pattern=f"^({'|'.join(PRIORITY_OF_TIER)})$")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client. Its `tier` has its own limits, and says how its requests may be served (`tiers`)."""

    tenant: str
    tier: str = "default"


class ApiKeys:
    """The keys of a file: a mapping of key → {tenant, tier}. Only their digests are kept."""

    def __init__(self, entries: dict[str, KeyEntry]) -> None:
        self._callers = {_digest(key): Caller(entry.tenant, entry.tier) for key, entry in entries.items()}

    def caller(self, connection: HTTPConnection) -> Caller:
        """Raises ApiError 401."""
        key = _key(connection)
        if key is None:
            raise _unauthorized(_missing(connection))
        # Looking a digest up tells an attacker's clock nothing about the keys.
        caller = self._callers.get(_digest(key))
        if caller is None:
            raise _unauthorized("Incorrect API key provided.")
        return _known(connection, caller)


class LoopbackOnly:
    """No keys: whoever is on this machine is the tenant `local`, with any key or none."""

    def caller(self, connection: HTTPConnection) -> Caller:
        """Raises ApiError 403."""
        peer = connection.client.host if connection.client is not None else ""
        if not is_loopback(peer):
            raise _forbidden(f"Without API keys ({_VARIABLE}) only clients on this machine are let in.")
        return _known(connection, Caller(LOCAL_TENANT))


def _known(connection: HTTPConnection, caller: Caller) -> Caller:
    """Whatever is replied from now on may tell the caller how it stands with its limits."""
    connection.state.caller = caller
    return caller


Authenticator = ApiKeys | LoopbackOnly


def load_authenticator(path: Path | None, host: str) -> Authenticator:
    """Keys of the file, or loopback only. Raises SettingsError, also for an open address without keys."""
    if path is not None:
        return ApiKeys(read_keys(path))
    if not is_loopback(host):
        raise SettingsError(
            f"CHATMESH_HOST is {host}, which others can reach: set {_VARIABLE} to a file of keys, "
            "or listen on 127.0.0.1"
        )
    log.warning("no %s: everybody on this machine is let in, as tenant '%s'", _VARIABLE, LOCAL_TENANT)
    return LoopbackOnly()


def read_keys(path: Path) -> dict[str, KeyEntry]:
    """The key file's entries. Raises SettingsError; never shows a key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = TypeAdapter(dict[str, KeyEntry]).validate_python(content)
    except OSError as error:
        raise SettingsError(f"{_VARIABLE}: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{_VARIABLE}: {path} is no valid YAML") from error
    except ValidationError as error:
        issue = error.errors()[0]
        where = ".".join(str(step) for step in issue["loc"][1:])
        raise SettingsError(
            f"{_VARIABLE}: {path} must map each key to {{tenant, tier}}: {where or 'the file'}: {issue['msg']}"
        ) from None  # the cause would print keys
    if not entries:
        raise SettingsError(f"{_VARIABLE}: {path} holds no key")
    return entries


def is_loopback(host: str) -> bool:
    """Whether an address or `localhost` stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key(connection: HTTPConnection) -> str | None:
    """The key in the header, or in a WebSocket's subprotocols; None without one."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    offered: list[str] = connection.scope.get("subprotocols", [])
    keys = (protocol.removeprefix(KEY_PROTOCOL) for protocol in offered if protocol.startswith(KEY_PROTOCOL))
    return next(keys, None) or None


def _missing(connection: HTTPConnection) -> str:
    how = "send it as 'Authorization: Bearer YOUR_KEY'"
    if any(name.lower() in _QUERY_KEYS for name in connection.query_params):
        return f"A key in the URL is not accepted, because URLs are written to logs: {how}."
    return f"You didn't provide an API key: {how}."


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _forbidden(message: str) -> ApiError:
    return ApiError(403, message, code="forbidden")
