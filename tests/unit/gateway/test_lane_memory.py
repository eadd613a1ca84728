"""What lanes remember: against a model that keeps everything, and rule by rule."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.api.lane_memory import LaneMemory
from services.gateway.ingress import Past
from shared.ids import new_response_id
from shared.records import Cancelled, Completed, Failed, Incomplete, Message
from tests.unit.gateway.logs import Log

PLENTY = 1_000_000


def said(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role="user", parts=[text]) for text in texts)


def turn(past: Past, text: str, answer: str, *, kind: Any = Completed, **spec: Any) -> Past | None:
    log = Log(new_response_id(1))
    fields = {
        Incomplete: {"reason": "max_output_tokens"},
        Failed: {"code": "server_error", "message": "no"},
    }.get(kind, {})
    accepted = log.accepted(input=list(said(text)), **spec)
    return past.then(accepted, log.terminal(kind, answer, **fields))


def texts(past: Past | None) -> list[tuple[str, str]]:
    assert past is not None
    return [(message.role, message.text) for message in past.messages]


def test_a_conversation_that_nobody_stores_is_remembered_whole() -> None:
    first = turn(Past(), "one", "1", store=False)
    assert first is not None
    second = turn(first, "two", "2", store=False)
    assert texts(second) == [("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2")]


@pytest.mark.parametrize("kind", [Incomplete, Cancelled])
def test_what_ended_early_is_remembered_as_far_as_it_came(kind: Any) -> None:
    assert texts(turn(Past(), "one", "1 and", kind=kind, store=False))[-1] == ("assistant", "1 and")


def test_a_failed_response_cannot_be_continued() -> None:
    assert turn(Past(), "one", "1", kind=Failed, store=False) is None


def test_a_warm_up_is_its_input_only() -> None:
    assert texts(turn(Past(), "be brief", "", store=False, generate=False)) == [("user", "be brief")]


def test_what_history_tells_is_left_to_it() -> None:
    assert turn(Past(), "one", "1", store=True) is None
    assert turn(Past(base="resp_stored"), "two", "2", store=True) is None


def test_history_cannot_tell_what_follows_a_turn_that_it_lacks() -> None:
    unstored = turn(Past(), "one", "1", store=False)
    assert unstored is not None
    assert len(texts(turn(unstored, "two", "2", store=True))) == 4
    empty = Past(told=False)  # a warm-up without any input that was not stored
    assert len(texts(turn(empty, "two", "2", store=True))) == 2


def test_what_follows_a_stored_turn_is_remembered_from_there() -> None:
    past = turn(Past(base="resp_stored"), "two", "2", store=False)
    assert past is not None
    assert (past.base, len(past.messages)) == ("resp_stored", 2)


def test_any_lane_may_go_on_from_the_latest_of_each() -> None:
    memory = LaneMemory(PLENTY)
    memory.advance("a", "resp_1", Past(messages=said("one")))
    memory.advance(None, "resp_2", Past(messages=said("two")))
    assert memory.recall("resp_1") == Past(messages=said("one"))
    assert memory.recall("resp_2") == Past(messages=said("two"))
    memory.advance("a", "resp_3", Past(messages=said("three")))
    assert memory.recall("resp_1") is None
    memory.advance("a", "resp_4", None)
    assert memory.recall("resp_3") is None


def test_an_error_evicts_the_parent_from_its_own_lane_only() -> None:
    memory = LaneMemory(PLENTY)
    memory.advance("a", "resp_1", Past(messages=said("one")))
    memory.evict("b", "resp_1")
    memory.evict("a", "resp_0")
    assert memory.recall("resp_1") is not None
    memory.evict("a", "resp_1")
    assert memory.recall("resp_1") is None
    assert memory.size_bytes == 0


LANES = st.sampled_from(["a", "b", "c", None])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), LANES, st.integers(0, 2_000)),
        st.tuples(st.just("forget"), LANES),
        st.tuples(st.just("evict"), LANES, LANES),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([0, 1_500, 3_000, PLENTY]))
def test_it_never_holds_more_than_it_may_and_never_tells_wrong(steps: list[Any], limit_bytes: int) -> None:
    memory = LaneMemory(limit_bytes)
    latest: dict[str | None, tuple[str, Past]] = {}
    for number, step in enumerate(steps):
        response_id = f"resp_{number}"
        if step[0] == "advance":
            past = Past(messages=said("x" * step[2]))
            latest[step[1]] = (response_id, past)
            memory.advance(step[1], response_id, past)
            if step[2] + 400 < limit_bytes:
                assert memory.recall(response_id) == past, "what fits is remembered"
        elif step[0] == "forget":
            latest.pop(step[1], None)
            memory.advance(step[1], response_id, None)
        elif (target := latest.get(step[2])) is not None:
            memory.evict(step[1], target[0])
            if step[1] == step[2]:
                del latest[step[2]]
        assert 0 <= memory.size_bytes <= limit_bytes
        known = dict(latest.values())
        for old in range(number + 1):
            recalled = memory.recall(f"resp_{old}")
            assert recalled is None or recalled == known[f"resp_{old}"]
        if limit_bytes == PLENTY:
            assert all(memory.recall(one) == past for one, past in known.items())
        if not latest:
            assert memory.size_bytes == 0
