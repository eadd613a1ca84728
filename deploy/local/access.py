"""What a person names to reach a gateway through OpenAI's SDK: its address, and the key."""

import ipaddress
import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from shared.errors import SettingsError

_OPEN_MESH_KEY = "none"
"""What the SDK is given where no key is set: it insists on one, and a mesh without keys ignores it."""


def is_address(url: str) -> bool:
    """Whether it is `http://host`, with a port and a path or not, as every HTTP client reads it."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and url.isprintable() and " " not in url


def is_local(url: str) -> bool:
    """Whether it is an address of this very machine, of which no proxy that the environment names knows anything."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def http_options(url: str) -> dict[str, Any]:
    """How httpx is to reach it: without a proxy where it is local, and by the authorities that the environment names
    (`SSL_CERT_FILE`, `SSL_CERT_DIR`) wherever it is. Raises SettingsError where those are none."""
    local = is_local(url)
    if local and urlsplit(url).scheme == "http":
        return {"trust_env": False}  # it needs none
    return {"trust_env": not local, "verify": _authorities()}  # httpx looks at them only where it takes proxies too


def _authorities() -> ssl.SSLContext | bool:
    """As httpx reads them; True for its own, where none are named."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and not folder:
        return True
    try:
        return ssl.create_default_context(cafile=file) if file else ssl.create_default_context(capath=folder)
    except OSError as error:
        raise SettingsError(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: {error}") from error


def api_key(environment: Mapping[str, str]) -> str:
    """What to send as the key. Raises SettingsError for one that no header can hold."""
    key = environment.get("OPENAI_API_KEY") or _OPEN_MESH_KEY
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("OPENAI_API_KEY holds what no API key can, as a letter with an accent: set it anew")
    return key
