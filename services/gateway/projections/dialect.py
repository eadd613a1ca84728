"""What a dialect is: a pure projection of one response's counted records into encoded events."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from shared.folds import EventFold
from shared.folds.events import Counted
from shared.ids import ResponseId
from shared.records import Delta


class Encoded(Protocol):
    """An event as it stands in a buffer; `json` is what of it was encoded."""

    @property
    def json(self) -> bytes: ...


E = TypeVar("E", bound=Encoded)


class Projection(Protocol[E]):
    """One response in one dialect."""

    def project(self, counted: Counted) -> list[E]:
        """The events that the next counted record adds; the fold that this projection was made with has it already."""


@dataclass(frozen=True, eq=False)
class Dialect(Generic[E]):
    """A way to tell a response: `projection(id, fold)` makes a projection that reads `fold`, whoever feeds that."""

    name: str
    projection: Callable[[ResponseId, EventFold], Projection[E]]


def told(fold: EventFold) -> Iterator[Counted]:
    """Stand-ins for the records that the fold has counted: as many events come of them, though of other bytes.

    For a projection that joins a response in the middle: its state and its count of events are then right.
    """
    if fold.accepted is None:
        return
    yield fold.accepted
    for text in fold.texts:
        yield Delta(response_id=fold.accepted.response_id, start=0, end=len(text), text=text, policy="", window=0)
    if fold.terminal is not None:
        yield fold.terminal
