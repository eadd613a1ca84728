"""What can go wrong with the store, in the three ways that the service acts on."""

from shared.errors import ChatmeshError


class StoreError(ChatmeshError):
    """The store is unusable (a damaged file, a schema of a later release): the service must end."""


class StoreUnavailableError(StoreError):
    """The store does not answer now (locked, disk full, not reachable): the same call may succeed later."""


class StoreRefusedError(StoreError):
    """The store works, but can never hold one of these records: it belongs into the dead-letter queue."""
