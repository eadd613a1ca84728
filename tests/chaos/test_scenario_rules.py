"""Each harm that a scenario looks for has hand-made evidence that shows it; the harmless twin shows none."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shared.records import (
    Accepted,
    Claimed,
    DeadLetter,
    Delta,
    Dispatched,
    Failed,
    Heartbeat,
    Incomplete,
    Message,
    Released,
    Requested,
    ResponseSpec,
    Usage,
)
from shared.records.codec import Envelope
from tests.chaos.evidence import Harm, Violation
from tests.chaos.observations import AnyClientLine, Event, Opened
from tests.chaos.scenarios.readers import LATE_S, late, public_at, resumed_s
from tests.chaos.scenarios.rules import (
    Ended,
    Follower,
    amnesia,
    buried,
    closed,
    complaints,
    died,
    different,
    grown,
    held,
    reclaimed,
    slowed,
)
from tests.chaos.store.rules import HARMS as OF_THE_STORE

RESPONSE = "resp_019aa0000000700080000000000000aa"
END: dict[str, Any] = {"response_id": RESPONSE, "tenant": "t", "text": "said", "finished_ms": 5}
USAGE = Usage(input_tokens=1, output_tokens=2)
SPEC = ResponseSpec(model="m", input=[Message(role="user", parts=["p"])])
ENDED = Ended(RESPONSE, "c1", "inference-1", since_ms=1000)


def at(timestamp_ms: int, record: Any) -> Envelope[Any]:
    return Envelope(record, "topic", 0, timestamp_ms, timestamp_ms)


def beat(timestamp_ms: int, *claims: str, worker: str = "inference-1") -> Envelope[Any]:
    return at(timestamp_ms, Heartbeat(service="inference", id=worker, state="ready", seq=1, claims=list(claims)))


def events(*times: float) -> list[AnyClientLine]:
    return [Event(at=t, stream=3, type="response.output_text.delta", number=n) for n, t in enumerate(times)]


def claimed(claim: str, attempt: int = 1) -> Envelope[Any]:
    return at(9, Claimed(response_id=RESPONSE, claim=claim, attempt=attempt, worker="inference-1", mailbox=0))


def poisoned(*attempts: int) -> list[Envelope[Any]]:
    tries = [at(n, Dispatched(response_id=RESPONSE, attempt=n, worker="inference-1", mailbox=0)) for n in attempts]
    last = Released(response_id=RESPONSE, claim="c", attempt=attempts[-1], worker="inference-1", reason="it died")
    return [*tries, at(9, last)]


def letter(attempts: int, error: str = "it died") -> Envelope[Any]:
    body = DeadLetter(
        origin_topic="generation.jobs",
        origin_partition=-1,
        origin_offset=-1,
        service="moderation",
        error=error,
        attempts=attempts,
        key=RESPONSE,
        value="{}",
    )
    return at(1, body)


FAILED = Failed(**END, usage=USAGE, code="server_error", message="m")
ENDED_WELL = Incomplete(**END, usage=USAGE, reason="max_output_tokens")


def turn(*context: Message) -> list[Envelope[Any]]:
    requested = Requested(
        response_id=RESPONSE,
        tenant="t",
        spec=SPEC,
        created_ms=0,
        deadline_ms=9,
        input_tokens=1,
        context=list(context),
    )
    return [at(1, requested)]


ASKED, ANSWERED = Message(role="user", parts=["p"]), Message(role="assistant", parts=["sa", "id"])
INFO, ERROR = '{"level": "INFO", "message": "m"}', '{"level": "ERROR", "message": "m"}'
WHOLE = Follower("a", -1, [b"0", b"1", b"2"])

Finding = Callable[[], Sequence[Violation]]
HARMS: dict[str, tuple[Harm, Finding]] = {
    "a stream stands still": (Harm.SLOWED, lambda: slowed(events(0, 1, 5), [3], 3)[1]),
    "a slow reader is let go too early": (Harm.NOT_CLOSED, lambda: list(closed("r", 2.0, 3, 9, 1013, 1013))),
    "a slow reader is let go too late": (Harm.NOT_CLOSED, lambda: list(closed("r", 12.1, 3, 9, 1013, 1013))),
    "a slow reader is not told why": (Harm.NOT_CLOSED, lambda: list(closed("r", 4.0, 3, 9, 1000, 1013))),
    "a gateway keeps what nobody reads": (Harm.MEMORY, lambda: list(grown("g", 10, 31, 20))),
    "poison is tried too often": (
        Harm.NOT_BURIED,
        lambda: list(buried(RESPONSE, poisoned(1, 2, 3, 4), FAILED, [letter(3)], 3)),
    ),
    "poison does not fail": (
        Harm.NOT_BURIED,
        lambda: list(buried(RESPONSE, poisoned(1, 2, 3), ENDED_WELL, [letter(3)], 3)),
    ),
    "poison is not put aside": (Harm.NOT_BURIED, lambda: list(buried(RESPONSE, poisoned(1, 2, 3), FAILED, [], 3))),
    "poison is put aside without a cause": (
        Harm.NOT_BURIED,
        lambda: list(buried(RESPONSE, poisoned(1, 2, 3), FAILED, [letter(3, error="3 failed")], 3)),
    ),
    "a worker ended": (Harm.DIED, lambda: list(died({"a", "b"}, {"b"}))),
    "a slot is given back too late": (Harm.HELD, lambda: held([ENDED], [beat(1100, "c1"), beat(3100)], 2)[1]),
    "a slot is taken again": (Harm.HELD, lambda: held([ENDED], [beat(1100), beat(2900, "c1"), beat(3100)], 2)[1]),
    "a slot is never given back": (Harm.HELD, lambda: held([ENDED], [beat(1100, "c1"), beat(1300, "c1")], 2)[1]),
    "nobody says that a slot is free": (Harm.HELD, lambda: held([ENDED], [beat(900), beat(3100, worker="w")], 2)[1]),
    "a response is claimed again": (
        Harm.RECLAIMED,
        lambda: list(reclaimed({RESPONSE: [claimed("c1"), claimed("c2", 2)]}, [RESPONSE])),
    ),
    "a response is not claimed": (Harm.RECLAIMED, lambda: list(reclaimed({}, [RESPONSE]))),
    "the context is empty": (Harm.AMNESIA, lambda: list(amnesia(RESPONSE, turn(), ENDED_WELL))),
    "the context ends with the question": (
        Harm.AMNESIA,
        lambda: list(amnesia(RESPONSE, turn(ANSWERED, ASKED), ENDED_WELL)),
    ),
    "a follower got another event": (
        Harm.DIFFERENT,
        lambda: list(different(RESPONSE, [WHOLE, Follower("b", 0, [b"1", b"x"])])),
    ),
    "a follower got too little": (
        Harm.DIFFERENT,
        lambda: list(different(RESPONSE, [WHOLE, Follower("b", -1, [b"0"])])),
    ),
    "a follower got what it had": (
        Harm.DIFFERENT,
        lambda: list(different(RESPONSE, [WHOLE, Follower("b", 0, WHOLE.events)])),
    ),
    "a resumed stream waits": (Harm.LATE, lambda: list(late("g", {RESPONSE: LATE_S + 0.1}, 1))),
    "a service reports an error": (Harm.ALARM, lambda: list(complaints("s", [ERROR, INFO]))),
    "the interpreter reports one": (Harm.ALARM, lambda: list(complaints("s", ["Traceback (most recent …", INFO]))),
    "a stream is not resumed": (Harm.LATE, lambda: list(late("g", {}, 1))),
}


@pytest.mark.parametrize("name", HARMS)
def test_the_harm_is_found(name: str) -> None:
    harm, finding = HARMS[name]
    assert {violation.rule for violation in finding()} == {harm}


def test_every_harm_has_its_evidence() -> None:
    assert {harm for harm, _ in HARMS.values()} == set(Harm) - OF_THE_STORE


def test_what_is_as_it_should_be_is_no_harm() -> None:
    assert slowed(events(0, 1, 2), [3], 3) == ([1.0], [])
    assert slowed(events(0, 1, 9), [4], 3) == ([], [])
    assert held([ENDED], [beat(900, "c1"), beat(1100, "c1"), beat(1300, "c2")], 2) == ([0.3], [])
    harmless: list[Violation] = [
        *closed("r", 4.0, 3, 9, 1013, 1013),
        *grown("g", 10, 30, 20),
        *buried(RESPONSE, poisoned(1, 2, 2, 3), FAILED, [letter(3)], 3),
        *died({"a"}, {"a", "b"}),
        *reclaimed({RESPONSE: [claimed("c1"), claimed("c1")]}, [RESPONSE]),
        *amnesia(RESPONSE, turn(ASKED, ANSWERED), ENDED_WELL),
        *different(RESPONSE, [WHOLE, Follower("b", 0, [b"1", b"2"]), Follower("c", 2, [])]),
        *late("g", {RESPONSE: 0.2}, 1),
        *complaints("s", [INFO, ERROR, '{"level": "ERR'], expected=["m"]),
    ]
    assert not harmless


def test_a_resumed_stream_waits_from_its_request_or_from_the_missed_record() -> None:
    accepted = Accepted(
        response_id=RESPONSE, tenant="t", spec=SPEC, policy="p", created_ms=0, deadline_ms=9, input_tokens=1
    )
    deltas = [
        at(1000 * n, Delta(response_id=RESPONSE, start=n, end=n + 1, text="x", policy="p", window=0)) for n in range(9)
    ]
    public = public_at([at(0, accepted), *deltas])
    number_at = {seconds: number for number, seconds in public.items()}
    resumed = Opened(at=3.6, stream=3, gateway="b", sent_at=3.5, starting_after=number_at[2.0])
    lines: list[AnyClientLine] = [Opened(at=0, stream=3, gateway="a", sent_at=0), *events(0.5), resumed]

    def waited_s(number: int) -> float | None:
        return resumed_s([*lines, Event(at=4.3, stream=3, type="any", number=number)], public)

    assert waited_s(number_at[3.0]) == pytest.approx(0.8)  # it was there before the request
    assert waited_s(number_at[4.0]) == pytest.approx(0.3)  # it was not
    assert resumed_s(lines, public) is None
