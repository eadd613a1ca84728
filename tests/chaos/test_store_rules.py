"""Each rule of the store's checker has a hand-made state of the store that breaks it; the whole state breaks none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from services.history.stores.port import Conversation, Holder, StoredResponse
from shared.records import (
    Accepted,
    Claimed,
    Completed,
    ConversationDeleted,
    ConversationUpdated,
    Deleted,
    Finish,
    Item,
    Message,
    Requested,
    ResponseSpec,
    Tokens,
    Usage,
)
from shared.records.codec import Envelope
from tests.chaos.evidence import Harm, Rule
from tests.chaos.scenarios.logs import TENANT
from tests.chaos.store.notes import Added, Erased, Notes, Story
from tests.chaos.store.rules import Kept, Remains, check_store

CONVERSATION = "conv_1"
ONE, TWO = (f"resp_019aa00000007000800000000000000{n}" for n in (1, 2))


def message(role: Any, text: str) -> Message:
    return Message(role=role, parts=[text])


def item(role: Any, text: str, number: int) -> Item:
    return Item(id=f"msg_{number}", role=role, parts=[text])


def envelope(record: Any, at_ms: int) -> Envelope[Any]:
    return Envelope(record, "topic", 0, at_ms, at_ms)


def turn(response_id: str, text: str, context: list[Message], began_ms: int) -> tuple[list[Any], list[Any]]:
    """Journal and events of a response that says back what it was told, in 100 ms."""
    spec = ResponseSpec(model="m", input=[message("user", text)], conversation=CONVERSATION)
    base: dict[str, Any] = {"response_id": response_id, "tenant": TENANT}
    times: dict[str, Any] = {"created_ms": began_ms, "deadline_ms": began_ms + 1000, "input_tokens": 1}
    finish = Finish(reason="stop", input_tokens=1)
    journal = [
        Requested(**base, **times, spec=spec, context=context),
        Claimed(response_id=response_id, claim="c", attempt=1, worker="w", mailbox=0),
        Tokens(response_id=response_id, claim="c", position=0, ids=[7], pieces=[text], finish=finish),
    ]
    usage = Usage(input_tokens=1, output_tokens=1)
    accepted = Accepted(**base, **times, spec=spec, policy="p")
    end = Completed(**base, text=text, usage=usage, finished_ms=began_ms + 100)
    return [envelope(record, began_ms + n) for n, record in enumerate(journal)], [
        envelope(accepted, began_ms + 50),
        envelope(end, began_ms + 100),
    ]


def whole() -> Remains:
    """A conversation begun with a line, in which a response ran, then two lines were added, then another ran."""
    lines = [("user", "begun"), ("user", "one"), ("assistant", "one"), ("user", "added"), ("user", "more"),
             ("user", "two"), ("assistant", "two")]  # fmt: skip
    said = [message(role, text) for role, text in lines]
    logs = {ONE: turn(ONE, "one", said[:1], 1000), TWO: turn(TWO, "two", said[:5], 3000)}
    events = {response_id: records for response_id, (_, records) in logs.items()}
    added = [Added(lines[:1], 0, 10), Added(lines[3:5], 2000, 2100)]
    kept = Kept(
        Conversation(CONVERSATION, TENANT, 0), [item(role, text, number) for number, (role, text) in enumerate(lines)]
    )
    told = [
        ConversationUpdated(conversation_id=CONVERSATION, tenant=TENANT, change="items_added", operation=response_id)
        for response_id in logs
    ]
    return Remains(
        journals={response_id: journal for response_id, (journal, _) in logs.items()},
        events=events,
        responses={i: StoredResponse(records[0].record, records[1].record) for i, records in events.items()},
        kept={CONVERSATION: kept},
        told=[envelope(record, 0) for record in told],
        notes=Notes(stories=[Story(CONVERSATION, added)]),
    )


def broken(remains: Remains) -> set[Harm | Rule]:
    return {violation.rule for violation in check_store(remains)}


def with_items(remains: Remains, change: Callable[[list[Item]], list[Item]]) -> Remains:
    kept = remains.kept[CONVERSATION]
    return replace(remains, kept={CONVERSATION: replace(kept, items=change(list(kept.items)))})


def with_story(remains: Remains, **changes: Any) -> Remains:
    [story] = remains.notes.stories
    return replace(remains, notes=replace(remains.notes, stories=[replace(story, **changes)]))


def said_to_be_deleted(remains: Remains, *response_ids: str) -> Remains:
    """The public log says so, and the store has nothing of them."""
    deleted = {i: [envelope(Deleted(response_id=i, tenant=TENANT), 9000)] for i in response_ids}
    events = {i: [*records, *deleted.get(i, [])] for i, records in remains.events.items()}
    gone = dict.fromkeys(response_ids)
    return replace(remains, events=events, responses={**remains.responses, **gone})


def test_the_whole_state_breaks_no_rule() -> None:
    assert check_store(whole()) == []


@pytest.mark.parametrize(
    ("change", "harm"),
    [
        (lambda items: [*items, items[0]], Harm.TWICE),
        (lambda items: [*items, item("user", "nobody's", 9)], Harm.MADE_UP),
        (lambda items: items[:-1], Harm.MISSING),
        (lambda items: [*items[:3], items[4], *items[5:]], Harm.MISSING),
        (lambda items: items[1:], Harm.MISSING),
        (lambda items: [*items[:1], *items[5:], *items[1:5]], Harm.DISORDERED),
        (lambda items: [*items[:4], *items[5:6], items[4], *items[6:]], Harm.INTERLEAVED),
        (lambda items: [*items[:3], *items[5:], *items[3:5]], Harm.AMNESIA),
    ],
    ids=["twice", "nobody's", "a gap at the end", "half a call", "the beginning", "two turns", "in between", "context"],
)
def test_items_that_are_not_what_was_said(change: Callable[[list[Item]], list[Item]], harm: Harm) -> None:
    assert harm in broken(with_items(whole(), change))


def test_a_lock_that_is_left() -> None:
    remains = whole()
    held = replace(Conversation(CONVERSATION, TENANT, 0), holder=Holder(TWO, 1))
    kept = replace(remains.kept[CONVERSATION], conversation=held)
    assert broken(replace(remains, kept={CONVERSATION: kept})) == {Harm.LOCKED}


def test_a_turn_that_began_before_the_other_had_ended() -> None:
    remains = whole()
    events = dict(remains.events) | {ONE: [envelope(e.record, e.timestamp_ms + 1950) for e in remains.events[ONE]]}
    assert Harm.INTERLEAVED in broken(replace(remains, events=events))


def test_a_call_of_unknown_outcome_may_be_there_or_not_but_not_in_part() -> None:
    remains = whole()
    [story] = remains.notes.stories
    unknown = with_story(remains, added=[story.added[0], replace(story.added[1], ended_ms=None)])
    assert broken(unknown) == set()
    # The second turn was reminded of these lines, so that only the first may be looked at.
    without = said_to_be_deleted(with_items(unknown, lambda items: items[:3]), TWO)
    erased = Erased(frozenset({("user", "two"), ("assistant", "two")}), 8000, 8100)
    assert broken(with_story(without, erased=[erased])) == set()
    assert Harm.MISSING in broken(with_story(with_items(without, lambda i: [*i, item("user", "added", 3)])))


def test_what_was_erased_and_is_there() -> None:
    erased = Erased(frozenset({("user", "begun")}), 5000, 5100)
    assert Harm.REMEMBERED in broken(with_story(whole(), erased=[erased]))


def test_a_turn_that_was_reminded_of_what_had_been_erased() -> None:
    gone = with_items(whole(), lambda items: items[1:])
    assert broken(with_story(gone, erased=[Erased(frozenset({("user", "begun")}), 8000, 8100)])) == set()
    before_the_second = Erased(frozenset({("user", "begun")}), 1500, 1600)
    assert broken(with_story(gone, erased=[before_the_second])) == {Harm.REMEMBERED}


def test_a_response_that_the_store_lost_or_the_log_forgot_to_delete() -> None:
    remains = whole()
    assert Rule.STORED in broken(replace(remains, responses={**remains.responses, ONE: None}))
    assert Harm.REMEMBERED in broken(replace(remains, notes=replace(remains.notes, erased_responses={ONE})))


def test_a_deleted_conversation_is_gone_with_all_that_ran_in_it_and_others_were_told() -> None:
    deleted = with_story(whole(), deleted=True)
    assert broken(deleted) == {Harm.REMEMBERED, Harm.UNTOLD}
    told = [envelope(ConversationDeleted(conversation_id=CONVERSATION, tenant=TENANT), 0)]
    gone = replace(said_to_be_deleted(deleted, ONE, TWO), kept={CONVERSATION: Kept(None, [])}, told=told)
    assert broken(gone) == set()
    assert broken(replace(gone, events=deleted.events)) >= {Harm.REMEMBERED}


def test_others_were_not_told_of_a_turn() -> None:
    assert broken(replace(whole(), told=whole().told[1:])) == {Harm.UNTOLD}


def test_an_answer_that_nothing_explains() -> None:
    assert broken(replace(whole(), notes=replace(whole().notes, odd=["500"]))) == {Harm.ODD}
