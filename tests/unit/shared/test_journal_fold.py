"""DESIGN 5, rule by rule, over the shipped fold."""

import pytest

from shared.folds import Effect, JournalFold
from shared.records import (
    Attached,
    Cancel,
    Claimed,
    Cut,
    Detached,
    Dispatched,
    Finish,
    Journal,
    Released,
    ReplyAddress,
    Requested,
    ResponseSpec,
    Tokens,
)

R = "resp_1"


def requested() -> Requested:
    return Requested(
        response_id=R,
        tenant="t",
        spec=ResponseSpec(model="m", input=[]),
        created_ms=0,
        deadline_ms=1,
        input_tokens=1,
        reply_to=ReplyAddress(gateway="g1", partition=0),
    )


def claimed(claim: str, attempt: int = 1) -> Claimed:
    return Claimed(response_id=R, claim=claim, attempt=attempt, worker=f"w-{claim}", mailbox=0)


def said(claim: str, position: int, text: str, finish: Finish | None = None) -> Tokens:
    return Tokens(
        response_id=R, claim=claim, position=position, ids=[ord(c) for c in text], pieces=list(text), finish=finish
    )


STOP = Finish(reason="stop", input_tokens=1)


def fold(*records: Journal) -> JournalFold:
    state = JournalFold()
    for record in records:
        state.apply(record)
    return state


def test_the_first_claim_of_the_highest_attempt_owns() -> None:
    state = fold(requested(), claimed("a"), claimed("b"), said("b", 0, "x"), said("a", 0, "ok"))
    assert state.owner is not None
    assert (state.owner.id, state.text) == ("a", "ok")


def test_a_claim_id_counts_once_however_often_it_is_appended() -> None:
    state = fold(requested(), claimed("a"), said("a", 0, "he"), claimed("a"), said("a", 2, "y"))
    assert state.text == "hey"


def test_a_higher_attempt_takes_over_at_the_next_position() -> None:
    state = fold(
        requested(), claimed("a"), said("a", 0, "he"), claimed("b", 2), said("a", 2, "XX"), said("b", 2, "y", STOP)
    )
    assert state.text == "hey"
    assert state.decision == STOP


def test_a_takeover_that_starts_elsewhere_is_void() -> None:
    state = fold(requested(), claimed("a"), said("a", 0, "he"), claimed("b", 2))
    assert state.apply(said("b", 1, "e")) is Effect.VOIDED
    assert state.apply(said("b", 2, "y")) is Effect.IGNORED
    assert state.text == "he"
    assert state.owner is not None
    assert not state.owner.live


def test_a_lost_append_voids_the_claim_and_nothing_is_buffered_over_the_gap() -> None:
    state = fold(requested(), claimed("a"), said("a", 0, "he"))
    assert state.apply(said("a", 3, "!")) is Effect.VOIDED
    assert state.apply(said("a", 2, "y")) is Effect.IGNORED
    assert state.text == "he"


def test_a_late_second_copy_is_dropped_by_position() -> None:
    state = fold(requested(), claimed("a"), said("a", 0, "h"), said("a", 1, "e"))
    assert state.apply(said("a", 0, "h")) is Effect.IGNORED
    assert state.apply(said("a", 2, "y")) is Effect.ADVANCED
    assert state.text == "hey"


@pytest.mark.parametrize(
    "late", [Cancel(response_id=R), Cut(response_id=R, reason="deadline"), said("a", 1, "x", STOP)]
)
def test_the_first_terminal_decision_wins(late: Journal) -> None:
    state = fold(requested(), claimed("a"), said("a", 0, "x"))
    first = Cancel(response_id=R, reason="abandoned")
    assert state.apply(first) is Effect.DECIDED
    assert state.apply(late) is Effect.IGNORED
    assert (state.decision, state.text) == (first, "x")


def test_a_finish_may_ride_on_no_tokens() -> None:
    state = fold(requested(), claimed("a"), said("a", 0, "hey"), claimed("b", 2), said("b", 3, "", STOP))
    assert (state.text, state.decision) == ("hey", STOP)


def test_released_claims_say_nothing_more() -> None:
    state = fold(requested(), claimed("a"), said("a", 0, "h"))
    released = Released(response_id=R, claim="a", attempt=1, worker="w", reason="drain")
    assert state.apply(released) is Effect.RELEASED
    assert state.apply(said("a", 1, "e")) is Effect.IGNORED
    assert state.apply(released) is Effect.IGNORED


def test_three_attempts_without_progress_are_exhausted() -> None:
    dispatches = [Dispatched(response_id=R, attempt=n, worker="w", mailbox=0) for n in (1, 2, 3)]
    assert not fold(requested(), *dispatches[:2]).exhausted
    assert fold(requested(), *dispatches).exhausted
    progress = fold(requested(), *dispatches[:2], claimed("a", 2), said("a", 0, "x"), dispatches[2])
    assert not progress.exhausted


def test_a_worker_without_a_free_slot_made_no_attempt() -> None:
    state = fold(requested())
    for attempt in range(1, 21):
        state.apply(Dispatched(response_id=R, attempt=attempt, worker="w", mailbox=0))
        state.apply(claimed(f"c{attempt}", attempt))
        full = Released(response_id=R, claim=f"c{attempt}", attempt=attempt, worker="w", reason="full", full=True)
        assert state.apply(full) is Effect.RELEASED
        assert state.apply(full) is Effect.IGNORED
    assert not state.exhausted
    assert state.attempt == 20


def test_ten_attempts_are_exhausted_even_with_progress() -> None:
    state = fold(requested())
    for attempt in range(1, 11):
        assert not state.exhausted
        state.apply(Dispatched(response_id=R, attempt=attempt, worker="w", mailbox=0))
        state.apply(claimed(f"c{attempt}", attempt))
        state.apply(said(f"c{attempt}", state.position, "x"))
    assert state.exhausted


def test_nothing_counts_before_the_request_and_a_second_request_is_ignored() -> None:
    state = JournalFold()
    assert state.apply(claimed("a")) is Effect.IGNORED
    assert state.apply(requested()) is Effect.REQUESTED
    assert state.apply(requested()) is Effect.IGNORED


def test_followers_come_and_go() -> None:
    state = fold(requested(), Attached(response_id=R, gateway="g2"), Detached(response_id=R, gateway="g1"))
    assert state.followers == {"g2"}
