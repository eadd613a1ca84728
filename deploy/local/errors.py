"""What ends a local run with exit code 1."""

from shared.errors import ChatmeshError


class RunError(ChatmeshError):
    """The mesh cannot come up or has come down; the message says what to do."""
