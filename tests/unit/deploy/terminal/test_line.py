"""Asking over connections that break: what is sent again, what is resumed, where a cancel goes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from deploy.terminal.chat.answer import Answer
from deploy.terminal.chat.gateways import ChatError
from deploy.terminal.chat.line import Line
from deploy.terminal.chat.patience import Patience
from tests.unit.deploy.terminal.events import created, delta, ended, error

BREAKS = ConnectionClosedError(None, None)


class Connection:
    """Plays events; an exception among them is raised, and behind the last one it waits."""

    def __init__(self, *events: Any) -> None:
        self.events = events
        self.sent: list[dict[str, Any]] = []
        self.closed = False
        self.played = asyncio.Event()
        self.response = SimpleNamespace(create=self._create)

    async def _create(self, **request: Any) -> None:
        self.sent.append(request)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event
        self.played.set()
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


class Gateways:
    """Hands the connections out, one after the other."""

    def __init__(self, *connections: Connection, count: int = 2) -> None:
        self.left = list(connections)
        self.count = count
        self.current = 0
        self.asked: list[tuple[dict[str, str], float]] = []
        self.cancelled: list[str] = []
        self.cancel_fails = 0
        self.client = SimpleNamespace(responses=SimpleNamespace(cancel=self._cancel))

    @property
    def url(self) -> str:
        return f"gateway-{self.current}"

    def __len__(self) -> int:
        return self.count

    def next(self) -> None:
        self.current = (self.current + 1) % self.count

    async def connect(self, query: dict[str, str], patience: Patience) -> Any:
        self.asked.append((query, patience.limit_s))
        patience.count()
        if not self.left:
            raise ChatError("nobody")
        return self.left.pop(0)

    async def _cancel(self, response_id: str) -> None:
        if self.cancel_fails:
            self.cancel_fails -= 1
            raise openai.APIConnectionError(request=httpx2.Request("POST", "http://gateway"))
        self.cancelled.append(response_id)


def line_to(gateways: Gateways, notice: Callable[[str], None] = lambda _: None, patience_s: float = 60.0) -> Line:
    return Line(gateways, patience_s, notice)  # type: ignore[arg-type]


async def asked(line: Line) -> tuple[str, Answer]:
    """The text that was said, and the answer."""
    said, answer = list[str](), Answer()
    async with asyncio.timeout(5):
        await line.ask({"input": "hi"}, answer, said.append)
    return "".join(said), answer


async def test_a_broken_answer_goes_on_elsewhere_behind_what_was_seen() -> None:
    first = Connection(created(), delta(1, "Hel"), BREAKS)
    second = Connection(delta(2, "lo"), ended(3, text="Hello"))
    gateways, notices = Gateways(first, second), list[str]()
    line = line_to(gateways, notices.append)
    text, answer = await asked(line)
    assert (text, answer.text, line.reconnects) == ("Hello", "Hello", 1)
    assert gateways.asked == [({}, 0.0), ({"response_id": "resp_1", "starting_after": "1"}, 60.0)]
    assert (len(first.sent), second.sent, first.closed) == (1, [], True)
    assert notices == ["the connection to gateway-0 is lost", "goes on at gateway-1"]


@pytest.mark.parametrize("trouble", [BREAKS, error(503)])
async def test_what_nobody_has_named_yet_is_sent_again(trouble: Any) -> None:
    first, second = Connection(trouble), Connection(created(), ended(1, text="Hello"))
    text, _ = await asked(line_to(Gateways(first, second)))
    assert (text, len(first.sent), len(second.sent)) == ("Hello", 1, 1)


async def test_where_all_gateways_are_unavailable_the_last_ones_word_counts() -> None:
    _, answer = await asked(line_to(Gateways(Connection(error(503)), Connection(error(503)))))
    assert answer.end is not None and answer.end.outcome == "refused"


async def test_the_next_turn_goes_over_the_same_connection() -> None:
    connection = Connection(created(), ended(1))
    line = line_to(Gateways(connection))
    await asked(line)
    await asked(line)
    assert len(connection.sent) == 2 and line.reconnects == 0


async def test_nobody_left_ends_the_turn_in_words() -> None:
    with pytest.raises(ChatError, match="nobody"):
        await asked(line_to(Gateways(Connection(created(), BREAKS))))


@pytest.mark.parametrize("named", [[], [created()]])
async def test_connections_that_bring_nothing_new_end_with_the_patience(
    named: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, pauses = asyncio.get_running_loop().time(), list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("deploy.terminal.chat.patience.asyncio.sleep", pause)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s + sum(pauses))
    gateways = Gateways(Connection(*named, BREAKS), *(Connection(*named, BREAKS) for _ in range(100)), count=1)
    with pytest.raises(ChatError, match="is lost, and in 9 s nothing new came"):
        await line_to(gateways, patience_s=9.0).ask({}, Answer(), lambda _: None)
    assert pauses == [0.1, 0.3, 1.0, *[2.0] * 4]  # the connection that the last one led to was the last
    assert len(gateways.asked) == len(pauses) + 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_gateway_that_cannot_serve_now_does_not_end_an_answer_that_runs(status: int) -> None:
    mid_stream = Connection(created(), delta(1, "Hel"), error(status))
    resumed = (Connection(error(status)), Connection(delta(2, "lo"), ended(3, text="Hello")))
    gateways, notices = Gateways(mid_stream, *resumed), list[str]()
    text, answer = await asked(line_to(gateways, notices.append))
    assert (text, answer.end and answer.end.outcome) == ("Hello", "completed")
    assert notices[0] == f"gateway-0 answers {status}: what is wrong"
    assert gateways.asked[1:] == [({"response_id": "resp_1", "starting_after": "1"}, 60.0)] * 2


async def test_what_nobody_will_ever_serve_ends_an_answer() -> None:
    _, answer = await asked(line_to(Gateways(Connection(created(), BREAKS), Connection(error(404)))))
    assert answer.end is not None and answer.end.outcome == "refused"


async def test_gateways_that_never_serve_end_it_with_their_words() -> None:
    connections = Connection(created(), BREAKS), *(Connection(error(503)) for _ in range(4))
    with pytest.raises(ChatError, match=r"^gateway-0 answers 503: what is wrong, and in 0 s nothing new came"):
        await asked(line_to(Gateways(*connections, count=1), patience_s=0.0))


NONSENSE = [
    5,
    None,
    SimpleNamespace(type="foo"),
    SimpleNamespace(type="error", code="c", message="as OpenAI tells it over HTTP", sequence_number=1),
    ended(1, usage=SimpleNamespace(input_tokens=1, output_tokens=1, input_tokens_details=None)),
    ended(1, "incomplete"),
    json.JSONDecodeError("Expecting value", "<html>", 0),
    RecursionError(),
]


@pytest.mark.parametrize("event", NONSENSE, ids=str)
async def test_what_is_no_event_of_ours_ends_the_turn_in_words(event: Any) -> None:
    with pytest.raises(ChatError, match=r"^gateway-0 is no gateway that this chat can talk to"):
        await asked(line_to(Gateways(Connection(created(), event))))


async def test_it_knows_who_cancelled() -> None:
    line = line_to(Gateways(Connection(created(), ended(1, "cancelled"))))
    await asked(line)
    assert not line.cancel_asked
    line.cancel()
    assert line.cancel_asked


async def test_an_event_renews_the_patience() -> None:
    begun = Connection(created(), BREAKS)
    more = [Connection(delta(n, "x"), BREAKS) for n in range(1, 9)]
    text, _ = await asked(line_to(Gateways(begun, *more, Connection(ended(9)), count=1), patience_s=0.0))
    assert text == "x" * 8


@pytest.mark.parametrize(
    ("code", "said"),
    [(1009, "send less, or have CHATMESH_BODY_LIMIT_BYTES raised"), (1008, "ask whoever"), (1002, "is no gateway")],
)
async def test_what_would_be_met_again_is_not_sent_again(code: int, said: str) -> None:
    first = Connection(ConnectionClosedError(Close(code, "no\x1b"), Close(code, ""), True))
    gateways = Gateways(first, Connection(created(), ended(1)))
    with pytest.raises(ChatError, match=rf"^gateway-0 .*{said}.* It closed with {code} \(.*\) no\\x1b$"):
        await asked(line_to(gateways))
    assert first.closed and len(gateways.asked) == 1


async def test_the_one_that_closes_first_says_why() -> None:
    ours = ConnectionClosedError(Close(1011, "answer"), Close(1007, "ours"), False)
    with pytest.raises(ChatError, match="closed with 1007"):
        await asked(line_to(Gateways(Connection(ours))))


async def test_a_cancel_goes_to_the_response_by_name_until_it_arrives() -> None:
    connection = Connection(created())
    gateways = Gateways(connection, Connection(delta(1, "x"), delta(2, "y")), count=1)
    gateways.cancel_fails = 1
    line = line_to(gateways)
    assert not line.cancel()  # nothing is asked
    task = asyncio.create_task(line.ask({}, Answer(), lambda _: None))
    await connection.played.wait()
    assert line.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert gateways.cancelled == []
    assert line.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert gateways.cancelled == ["resp_1"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
