"""Which release of chatmesh this is; services run from their source tree, whose metadata no installer has seen."""

VERSION = "0.1.0"
"""As in pyproject.toml; a test compares the two."""
