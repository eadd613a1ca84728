"""Dead letters: how they are named, what became of them, which can be sent back."""

import json
from typing import Any

import pytest

from deploy.terminal.command import printable
from deploy.terminal.dlq.letters import Address, Letter, LetterError, chosen, collect, parse_address
from deploy.terminal.dlq.queues import readable
from deploy.terminal.dlq.redriving import describe, plan
from deploy.terminal.dlq.rendering import as_json, render_letter, render_list, state
from deploy.terminal.dlq.rules import why_not
from shared.log import RawRecord
from shared.log.redrive import REDRIVEN_HEADER
from shared.records import (
    Attached,
    Cancel,
    DeadLetter,
    Delta,
    EraseResponse,
    GetResponse,
    Record,
    Redriven,
    ReplyAddress,
    Screening,
    Stop,
)
from shared.records.codec import Envelope, encode_headers, encode_value
from shared.topics import DEAD_LETTERS, EVENTS, HISTORY_QUERIES, JOBS, JOURNAL, Topic
from tests.unit.history.fakes import accepted, an_id, asked, completed

TO = ReplyAddress(gateway="g", partition=0)
ID = an_id()
QUERY: dict[str, Any] = {"correlation_id": "c", "reply_to": TO, "tenant": "t", "response_id": ID}


def letter(topic: str, record: Record, number: int = 0, **changes: Any) -> Letter:
    headers = {name: value.decode() for name, value in encode_headers(record, "history-1")}
    fields = {
        "origin_topic": topic,
        "origin_partition": 3,
        "origin_offset": 17,
        "service": "history",
        "error": "StoreRefusedError: the store\nrefused",
        "attempts": 3,
        "key": record.subject,
        "value": encode_value(record).decode(),
        "headers": headers,
    }
    return Letter(number, 1_795_293_743_000, DeadLetter(**{**fields, **changes}))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("responses.events", Address("responses.events")),
        ("responses.events.dlq", Address("responses.events")),
        ("responses.events@5", Address("responses.events", number=5)),
        ("responses.events.dlq@5", Address("responses.events", number=5)),
        ("responses.events/3@17", Address("responses.events", place=(3, 17))),
    ],
)
def test_an_address_names_a_queue_a_letter_or_a_record(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "nothing", "service.heartbeats", "responses.events/3", "responses.events@x", "@5"]
)
def test_what_is_no_address_is_told_what_is_one(text: str) -> None:
    with pytest.raises(LetterError, match="write TOPIC, TOPIC@NUMBER"):
        parse_address(text)


def test_addresses_choose_and_one_of_nothing_is_an_error() -> None:
    first, second = letter(EVENTS.name, completed(ID), 0), letter(EVENTS.name, completed(ID), 1, origin_offset=18)
    assert chosen([first, second], []) == [first, second]
    assert chosen([first, second], [parse_address("responses.events@1")]) == [second]
    assert chosen([first, second], [parse_address("responses.events/3@17")]) == [first]
    assert chosen([first], [parse_address("responses.journal")]) == []
    with pytest.raises(LetterError, match=r"no dead letter responses\.events@7"):
        chosen([first], [parse_address("responses.events@7")])


def test_a_queue_tells_which_letters_went_back() -> None:
    body = letter(EVENTS.name, completed(ID)).body
    mark = Redriven(letter_offset=4, partition=3, offset=9, times=1)
    of_one_that_is_gone = Redriven(letter_offset=2, partition=0, offset=1, times=1)
    records = enumerate((body, body, mark, of_one_that_is_gone), 4)
    queue = [Envelope(record, "q", 0, number, 100) for number, record in records]
    went, stays = collect(queue)
    assert (went.number, went.sent_back, state(went)) == (4, [mark], "sent back")
    assert (stays.number, stays.sent_back, state(stays)) == (5, [], "aside")


def test_a_record_that_came_back_shows_how_often() -> None:
    again = letter(EVENTS.name, completed(ID))
    again.body.headers[REDRIVEN_HEADER] = "2"
    assert (again.times, state(again)) == (2, "aside again (2)")


@pytest.mark.parametrize(
    ("topic", "record", "goes"),
    [
        (EVENTS, completed(ID), True),
        (EVENTS, accepted(ID), False),
        (EVENTS, Delta(response_id=ID, start=0, end=1, text="x", policy="p", window=0), False),
        (EVENTS, Screening(response_id=ID, epoch=1, owner="o"), False),
        (JOURNAL, Cancel(response_id=ID), True),
        (JOURNAL, Attached(response_id=ID, gateway="g"), False),
        (JOBS, Stop(response_id=ID), False),
        (HISTORY_QUERIES, EraseResponse(**QUERY), True),
        (HISTORY_QUERIES, GetResponse(**QUERY), False),
    ],
)
def test_what_nobody_was_told_to_have_failed_goes_back(topic: Topic, record: Record, goes: bool) -> None:
    assert (why_not(letter(topic.name, record)) is None) is goes


def test_every_queue_has_a_rule() -> None:
    for topic in DEAD_LETTERS:
        assert why_not(letter(topic, asked(ID), headers={})), topic  # which none but one can read, and that one refuses


def test_work_that_was_given_up_and_what_nobody_can_read_stay() -> None:
    assert "no record" in str(why_not(letter(EVENTS.name, completed(ID), origin_partition=-1)))
    assert "cannot read it either" in str(why_not(letter(EVENTS.name, completed(ID), value="{")))


def test_what_was_shortened_stays_also_where_its_value_is_whole() -> None:
    """Its headers may be missing, and by a part of its key it would go elsewhere."""
    cut = letter(EVENTS.name, completed(ID), shortened=True)
    assert "too long for its letter" in str(why_not(cut))
    assert not plan([cut], [cut], again=False).records
    assert json.loads(as_json(cut))["shortened"]


def test_a_record_that_two_services_put_aside_goes_back_once() -> None:
    ours, theirs = letter(EVENTS.name, completed(ID), 0), letter(EVENTS.name, completed(ID), 1, service="gateway")
    found = plan([ours, theirs], [ours, theirs], again=False)
    assert list(found.records.values()) == [[ours, theirs]]
    assert len(describe(found)) == 1


def test_what_went_back_goes_again_only_if_that_is_said() -> None:
    done = letter(EVENTS.name, completed(ID))
    done.sent_back.append(Redriven(letter_offset=0, partition=3, offset=20, times=1))
    twin = letter(EVENTS.name, completed(ID), 1)
    for wanted in ([done, twin], [twin]):  # whichever of them is named
        found = plan(wanted, [done, twin], again=False)
        assert not found.records and all("--again" in reason for _, reason in found.refused)
        found = plan(wanted, [done, twin], again=True)
        assert (list(found.records.values()), found.times) == ([wanted], {twin.origin: 1})


def test_content_is_shown_only_if_that_is_said_and_steers_no_terminal() -> None:
    secret = letter(EVENTS.name, completed(ID), value="\x1b[31mwhat the user wrote", key="ü\x9b\u202e")
    for shown in ("\n".join(render_letter(secret)), "\n".join(render_list([secret], 80)), as_json(secret)):
        assert "what the user wrote" not in shown and shown == printable(shown)
    assert "\\x1b[31mwhat the user wrote" in "\n".join(render_letter(secret, content=True))
    told = json.loads(as_json(secret, content=True))
    assert (told["content"], told["key"]) == (secret.body.value, secret.body.key) and "ü" in as_json(secret)


def test_a_letter_of_another_queue_or_none_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    ours, foreign = letter(EVENTS.name, completed(ID)), letter("\x1b[31mgateway.replies", completed(ID))
    raw = [
        RawRecord(0, number, 0, ID, encode_value(body), tuple(encode_headers(body, "history-1")))
        for number, body in enumerate((foreign.body, ours.body))
    ]
    found = [envelope for record in raw for envelope in readable(EVENTS.name, record)]
    assert [each.number for each in collect(found)] == [1]
    assert "responses.events.dlq@0" in caplog.text and "gateway.replies" in caplog.text and "\x1b" not in caplog.text


def test_whatever_others_wrote_into_it_a_letter_is_shown() -> None:
    headers = {REDRIVEN_HEADER: "9" * 5000}
    body = letter(EVENTS.name, completed(ID), service="\x1b[2Jhistory", headers=headers).body
    odd = Letter(0, 2**62, body)
    for shown in ("\n".join(render_letter(odd)), "\n".join(render_list([odd], 80))):
        assert f"{2**62} ms" in shown and "\\x1b[2Jhistory" in shown and "\x1b" not in shown
    assert (odd.times, state(odd)) == (0, "aside")


def test_a_list_keeps_to_the_width_and_to_one_line_per_error() -> None:
    head, error = render_list([letter(EVENTS.name, completed(ID))], 24)
    assert head.startswith("responses.events@0  2026-11-21")
    assert error == "  StoreRefusedError: th…"
