"""Who asks: API keys → tenants. Without a key file only clients on this machine are let in."""

import ipaddress
import logging
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from services.gateway.api.errors import ApiError
from shared.errors import SettingsError

log = logging.getLogger(__name__)

LOCAL_TENANT = "local"
_VARIABLE = "CHATMESH_API_KEYS"
PRIORITY_OF_TIER = {"default": 0, "priority": 1}


class KeyEntry(BaseModel):
    """What the key file says about one key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str = Field(min_length=1, max_length=64)
    tier: str = Field("default", pattern=f"^({'|'.join(PRIORITY_OF_TIER)})$")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client. Jobs of a higher `priority` are dispatched first; its `tier` has its own limits."""

    tenant: str
    priority: int = 0
    tier: str = "default"


class ApiKeys:
    """The keys of a file: a mapping of key → {tenant, tier}. Only their digests are kept."""

    def __init__(self, entries: dict[str, KeyEntry]) -> None:
        self._callers = {
            _digest(key): Caller(entry.tenant, PRIORITY_OF_TIER[entry.tier], entry.tier)
            for key, entry in entries.items()
        }

    def caller(self, connection: HTTPConnection) -> Caller:
        """Raises ApiError 401."""
        scheme, _, key = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("You didn't provide an API key: send it as 'Authorization: Bearer YOUR_KEY'.")
        # Looking a digest up tells an attacker's clock nothing about the keys.
        caller = self._callers.get(_digest(key.strip()))
        if caller is None:
            raise _unauthorized("Incorrect API key provided.")
        return caller


class LoopbackOnly:
    """No keys: whoever is on this machine is the tenant `local`, with any key or none.

    A web page that a local browser shows is not: its requests name their `Origin`, and a WebSocket handshake is not
    held back by the same-origin rule.
    """

    def caller(self, connection: HTTPConnection) -> Caller:
        """Raises ApiError 403."""
        peer = connection.client.host if connection.client is not None else ""
        if not is_loopback(peer):
            raise _forbidden(f"Without API keys ({_VARIABLE}) only clients on this machine are let in.")
        origin = connection.headers.get("origin")
        if origin is not None and not is_loopback(urlsplit(origin).hostname or ""):
            raise _forbidden(f"Without API keys ({_VARIABLE}) pages of other sites are not let in.")
        return Caller(LOCAL_TENANT)


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


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _forbidden(message: str) -> ApiError:
    return ApiError(403, message, code="forbidden")
