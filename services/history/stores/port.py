"""The store port: what any database must do for history, and nothing of how."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.records import TERMINALS, Accepted, AnyTerminal, Deleted, Screening

Recordable = Accepted | Screening | AnyTerminal | Deleted
RECORDABLE = (Accepted, Screening, Deleted, *TERMINALS)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An ended response, as the two events from which every view of it is projected."""

    accepted: Accepted
    terminal: AnyTerminal

    @property
    def previous_response_id(self) -> str | None:
        return self.accepted.spec.previous_response_id


class Store(Protocol):
    """Keeps ended responses for good.

    All methods raise StoreUnavailableError when the same call may succeed later, StoreError when it never will.
    Offsets are Kafka's business: a caller commits its own after `record` returned.
    """

    async def open(self) -> None:
        """Connect, create or migrate the schema."""

    async def close(self) -> None:
        """Finish what runs, then disconnect."""

    async def record(self, records: Sequence[Recordable]) -> frozenset[str]:
        """Apply the records in their order, all or none; durable once this returns.

        The rules are those of `EventFold` (DESIGN 6): each kind counts once, epochs lower than the highest seen
        for the response are ignored, after the terminal only its tenant's `deleted` counts, which leaves an empty
        tombstone: whatever comes for it later is not kept.
        The state of the fold lives in the store, so records may be applied again, from any earlier offset on and
        by several writers. Responses with `store` false are not kept.

        Returns the ids of the responses that this call ended.
        """

    async def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """The ended response of this tenant; None if there is none (or it has not ended, or was deleted)."""

    async def chain(self, tenant: str, response_id: str, limit: int) -> list[StoredResponse]:
        """The ended response and its ancestors by `previous_response_id`, oldest first, `limit` of the newest.

        Stops at the first ancestor that is not stored, which the caller sees by its id in the oldest one; empty
        if the response itself is not there.
        """
