"""The environment of the chat front ends from PyPI: what requirements/frontends.lock names, apart from our own."""

from pathlib import Path

from deploy import environments


def installed() -> Path:
    """The folder of their programs, `python` among them, once it holds what the lock says. Raises InstallError."""
    return environments.installed("frontends", "frontends")
