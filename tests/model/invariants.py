"""What must hold in every state, and in every state where nothing happens any more (DESIGN 8, in the model's terms)."""

import json
import re
from typing import Any

from shared.folds import EventFold, JournalFold
from shared.records import TERMINALS, Cancel, Cancelled, Cut, Delta, Failed, Finish, Incomplete
from tests.model.folding import DEAF, POLICY_CHANGED, Folding
from tests.model.text import HOLD_BACK, STRIDE
from tests.model.world import Log, World


class Broken(AssertionError):
    """An invariant does not hold; the message names it first."""


class Invariants:
    """Checks states; what depends on one log only is checked once per log."""

    def __init__(self, folding: Folding) -> None:
        self._folding = folding
        (category,) = folding.policies[0].categories.values()
        self._violation: re.Pattern[str] = re.compile(category.patterns[0].regex.pattern)
        self._good_journals: set[Log] = set()
        self._good_events: set[Log] = set()

    def check(self, world: World) -> None:
        """Raises Broken if the state is wrong."""
        journal = self._folding.journal(world.journal)
        events = self._folding.events(world.events)
        if world.journal not in self._good_journals:
            self._no_splice(journal)
            self._good_journals.add(world.journal)
        if world.events not in self._good_events:
            self._readers_agree(world.events, events)
            self._history_has_what_was_told(world.events, events)
            self._good_events.add(world.events)
        self._only_screened_text_is_public(journal, events)
        self._the_end_follows_from_the_journal(journal, events, deafened=world.deafened)
        if journal.attempt > 1 + world.spent:
            raise Broken(
                f"each fault costs at most one attempt: {journal.attempt} of them after {world.spent} "
                "crashes, pauses and losses"
            )
        self._an_owner_is_heard(world, events)
        if world.rejected and events.accepted is not None:
            raise Broken("a rejected response never becomes public: the client was told 400 and the log says accepted")

    def check_quiet(self, world: World) -> None:
        """Raises Broken if nothing happens any more and the client still waits."""
        if not world.rejected and self._folding.events(world.events).terminal is None:
            raise Broken("every response ends without help of the deadline: nothing happens any more, no terminal")

    # -- one log ---------------------------------------------------------------------------------------------

    def _no_splice(self, journal: JournalFold) -> None:
        ids = tuple(journal.ids)
        if not self._folding.language.is_coherent(ids):
            raise Broken(f"no splice: {journal.text!r} joins tokens that were said behind others")
        text = self._folding.language.text(ids)
        # A character whose second half is still missing shows only in the text of the ids.
        if journal.text != text.removesuffix("\ufffd"):
            raise Broken(f"no splice: the pieces read {journal.text!r}, the ids {text!r}")

    def _readers_agree(self, log: Log, events: EventFold) -> None:
        whole = self._folding.project(log)
        if [event.sequence_number for event in whole] != list(range(len(whole))):
            raise Broken("sequence numbers have no gap")
        for length in range(len(log)):
            early = self._folding.project(log[:length])
            if early != whole[: len(early)]:
                raise Broken(
                    f"every reader start gives the same bytes: a client that read {length} events goes on wrong"
                )
        if sum(event.type == "response.created" for event in whole) > 1:
            raise Broken("at most one acceptance counts")
        ends = [place for place, event in enumerate(whole) if event.type in _LAST_TYPES]
        if len(ends) > 1:
            raise Broken("at most one terminal counts")
        if ends and ends[0] != len(whole) - 1:
            raise Broken("nothing follows the terminal")
        self._deltas_make_the_text(whole, events)

    def _deltas_make_the_text(self, whole: list[Any], events: EventFold) -> None:
        if events.terminal is None:
            return
        said = "".join(json.loads(e.json)["delta"] for e in whole if e.type == "response.output_text.delta")
        if said != events.terminal.text:
            raise Broken(f"what a client reads is the terminal's text: {said!r}, not {events.terminal.text!r}")

    def _history_has_what_was_told(self, log: Log, events: EventFold) -> None:
        """History drops deltas undecoded and must come to the same accepted and terminal all the same."""
        recorded = self._folding.rules.event_fold()
        for record in self._folding.of(log):
            if not isinstance(record, Delta):
                recorded.apply(record)
        if (recorded.accepted, recorded.terminal) != (events.accepted, events.terminal):
            raise Broken("history holds what the client was told")

    # -- both logs -------------------------------------------------------------------------------------------

    def _public_end(self, text: str, *, final: bool) -> int:
        """How much of the raw text may be public, read off the policy's rules directly."""
        judged = len(text) if final else max(0, len(text) // STRIDE * STRIDE - HOLD_BACK)
        found = self._violation.search(text)
        return judged if found is None else min(judged, found.start())

    def _only_screened_text_is_public(self, journal: JournalFold, events: EventFold) -> None:
        public = self._public_end(journal.text, final=journal.decision is not None)
        if events.position > public or events.text != journal.text[: events.position]:
            raise Broken(
                f"no unscreened token is public: the log says {events.text!r} of {journal.text!r}, "
                f"of which {public} may be public"
            )

    def _an_owner_is_heard(self, world: World, events: EventFold) -> None:
        """What the partition's owner published counts, as long as no append of its was lost: else the stream stands
        still until the terminal says the rest."""
        owner = world.owners[world.assigned]
        speaks = owner.phase == "live" and not owner.broken and owner.epoch >= events.epoch
        if speaks and events.position < owner.public:
            raise Broken(f"the stream goes on: published up to {owner.public}, readers stand at {events.position}")

    def _the_end_follows_from_the_journal(self, journal: JournalFold, events: EventFold, *, deafened: bool) -> None:
        end = events.terminal
        if end is None or (isinstance(end, Failed) and end.message in (POLICY_CHANGED, DEAF)):
            return
        if deafened and isinstance(end, Cancelled | Failed) and isinstance(end, _kind(journal, violated=False)):
            return  # what nobody could judge is not public
        text = journal.text[: self._public_end(journal.text, final=True)]
        violated = text != journal.text
        if (end.text, type(end)) != (text, _kind(journal, violated=violated)):
            raise Broken(
                f"the first decision wins: the log ends as {type(end).__name__} {end.text!r}, "
                f"the journal says {journal.decision} and {text!r}"
            )


_LAST_TYPES = {"response.completed", "response.incomplete", "response.failed"}


def _kind(journal: JournalFold, *, violated: bool) -> type[Any]:
    decision = journal.decision
    if violated or isinstance(decision, Finish) or (isinstance(decision, Cut) and decision.reason == "policy"):
        return Incomplete
    kind = Cancelled if isinstance(decision, Cancel) else Failed
    assert kind in TERMINALS
    return kind
