"""The rules under exploration: the shipped ones, exchangeable one by one so that removing one can be shown to hurt."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import services.gateway.projections.responses as projection_module
import services.inference.claims as claims_module
from services.inference.claims import said_before
from services.inference.generation import Generation
from services.moderation.windows import TextScreen
from shared.folds import EventFold, JournalFold
from shared.records import Journal

SaidBefore = Callable[[Iterable[Journal], str], tuple[int, ...] | None]


@dataclass(frozen=True)
class Rules:
    """The classes and functions that decide. The flags are rules that live in the services' I/O and are modelled:
    a takeover marks its epoch, reads up to the marker, dispatches anew for void claims, heals after a lost append,
    accepts what was asked even if its end is in the journal already (`accepts_before_it_ends`), and takes its epoch
    from the group's generation, so that a superseded owner's is always lower (`epochs_of_the_group`), and turns away
    what no backend can judge only once the journal says so (`turns_away_by_journal`).
    """

    journal_fold: type[JournalFold] = JournalFold
    event_fold: type[EventFold] = EventFold
    screen: type[TextScreen] = TextScreen
    generation: type[Generation] = Generation
    said_before: SaidBefore = said_before
    marks_its_epoch: bool = True
    reads_up_to_its_mark: bool = True
    replaces_void_claims: bool = True
    heals: bool = True
    accepts_before_it_ends: bool = True
    epochs_of_the_group: bool = True
    turns_away_by_journal: bool = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the shipped code that folds by itself (claims, projection) use these folds."""
        with (
            patch.object(claims_module, "JournalFold", self.journal_fold),
            patch.object(projection_module, "EventFold", self.event_fold),
        ):
            yield


SHIPPED = Rules()
