"""Questions that are asked at most once under a client's key.

What a question makes is named before it is asked, and an idempotency key stands in the ledger for the names that were
minted first: who comes with it again asks for the very same.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from services.gateway.auth import Caller
from services.gateway.errors import ApiError
from services.gateway.ledger import (
    Ask,
    Granted,
    Ledger,
    Limited,
    Receipt,
    Repeatable,
    Repeated,
    key_reused,
    limited_error,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that was admitted, by the names that it goes by. `repeated`: its key had them; `done`: and it was
    answered before."""

    names: tuple[str, ...]
    receipt: Receipt
    repeated: bool = False
    done: bool = False

    async def make(self, answer: Awaitable[T]) -> T:
        """The answer, once it came. What was asked before, or without an answer, may have been done all the same: then
        the key goes on to stand for these names."""
        try:
            got = await answer
        except ApiError as error:
            if error.status < 500 and not self.repeated:
                self.receipt.came_to_nothing()
            raise
        self.receipt.accepted()
        return got


async def admitted(ledger: Ledger, caller: Caller, names: tuple[str, ...], repeatable: Repeatable | None) -> Attempt:
    """The request as one of the caller's, of no tokens; under the names of the first time if that was before.

    Raises ApiError: 422 for a key that stands for another request, 429, 503.
    """
    decision, receipt = await ledger.charge(Ask(caller, names, 0, repeatable))
    match decision:
        case Granted():
            return Attempt(names, receipt)
        case Repeated(holder):
            first = msgspec.structs.replace(receipt.charge, response_id=holder.first)
            return Attempt(holder.responses, Receipt(first, ledger), repeated=True, done=holder.accepted is True)
        case Limited():
            raise limited_error(decision.shortage, ledger.standing(caller), caller.tenant)
        case _:
            raise key_reused()
