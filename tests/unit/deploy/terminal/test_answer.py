"""One answer over any number of connections."""

from types import SimpleNamespace
from typing import Any

import pytest

from deploy.terminal.chat.answer import CONNECTION_LIMIT, Answer, End, Usage, refusal, request
from tests.unit.deploy.terminal.events import created, delta, ended, error


def told(answer: Answer, *events: Any) -> str:
    return "".join(answer.take(event) for event in events)


def test_deltas_are_told_once_however_often_they_come() -> None:
    answer = Answer()
    assert told(answer, created(), delta(1, "Hel"), delta(2, "lo"), delta(1, "Hel"), delta(2, "lo")) == "Hello"
    assert told(answer, delta(3, " you"), ended(4, text="Hello you")) == " you"
    assert answer.end == End("completed", usage=Usage(5, 3, 2))


def test_it_is_resumed_behind_what_was_seen_once_it_has_a_name() -> None:
    answer = Answer()
    assert answer.resume_query() == {}
    told(answer, created(), delta(1, "x"))
    assert answer.resume_query() == {"response_id": "resp_1", "starting_after": "1"}


def test_what_the_end_holds_beyond_the_deltas_is_told_too() -> None:
    answer = Answer()
    assert told(answer, created(), delta(1, "Hel"), ended(2, text="Hello")) == "Hello"


@pytest.mark.parametrize(
    ("event", "end"),
    [
        (
            ended(1, "incomplete", incomplete_details=SimpleNamespace(reason="max_output_tokens")),
            End("incomplete", "max_output_tokens", Usage(5, 3, 2)),
        ),
        (ended(1, "cancelled"), End("cancelled", usage=Usage(5, 3, 2))),
        (ended(1, "failed", error=SimpleNamespace(message="no"), usage=None), End("failed", "no")),
        (error(400, "content_policy_violation"), End("refused", "what is wrong")),
        (error(400, CONNECTION_LIMIT), None),
    ],
)
def test_how_it_ended(event: Any, end: End | None) -> None:
    answer = Answer()
    told(answer, created(), event)
    assert answer.end == end


def test_only_what_may_stand_in_a_conversation_is_gone_on_from() -> None:
    kept = {outcome: End(outcome).can_be_continued for outcome in ("completed", "incomplete", "cancelled")}  # type: ignore[arg-type]
    assert all(kept.values())
    assert not End("failed").can_be_continued and not End("refused").can_be_continued


def test_another_try_may_fare_better_than_one_that_was_refused() -> None:
    assert refusal(error(503), named=False) == refusal(error(503), named=True) == "503: what is wrong"
    for status in (429, 500):
        assert not refusal(error(status), named=False) and refusal(error(status), named=True)
    for event in (error(404), error(None), delta(1, "")):
        assert not refusal(event, named=True)


def test_the_first_turn_has_no_parent() -> None:
    assert request("m", "hi", None, {"temperature": 0}) == {"model": "m", "input": "hi", "temperature": 0}
    assert request("m", "hi", "resp_1", {})["previous_response_id"] == "resp_1"
