"""`DELETE /v1/responses/{id}` over a mesh in memory: the log decides, the store forgets, nobody finds it again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from services.gateway.fanout import Fanout, home_partitions
from shared.ids import ResponseId, new_response_id, parse_response_id
from shared.records import (
    Cancel,
    Cancelled,
    Completed,
    Delete,
    Deleted,
    EraseResponse,
    GetResponse,
    InputCounted,
    Rejected,
    ResponseErased,
    ResponseFound,
)
from tests.unit.gateway.fakes import FakeLog, FakePresence
from tests.unit.gateway.harness import MODEL, Mesh, gateway, only_accept, say
from tests.unit.gateway.logs import Log

ASK: dict[str, Any] = {"model": MODEL, "input": "Say hello"}


def delete(record: Delete) -> list[Any]:
    """What the response's owner says."""
    return [Deleted(response_id=record.response_id, tenant=record.tenant)]


def history(query: Any) -> Any:
    """A store that has nothing and forgets what it is asked to."""
    if isinstance(query, EraseResponse):
        return ResponseErased(gateway="gateway-1", correlation_id=query.correlation_id)
    return rejected(query, 404)


def rejected(query: Any, status: int) -> Rejected:
    return Rejected(
        gateway="gateway-1", correlation_id=query.correlation_id, status=status, code="no", message="no",
        error_type="invalid_request_error",
    )  # fmt: skip


def deleting(script: Any = None, **changes: Any) -> Mesh:
    return Mesh(script or say("Hello"), **{"on_delete": delete, "on_query": history, **changes})


USES: dict[str, Callable[[AsyncOpenAI, str], Awaitable[Any]]] = {
    "retrieve": lambda client, response_id: client.responses.retrieve(response_id),
    "stream": lambda client, response_id: client.responses.retrieve(response_id, stream=True),
    "cancel": lambda client, response_id: client.responses.cancel(response_id),
    "items": lambda client, response_id: client.responses.input_items.list(response_id)._get_page(),
    "delete": lambda client, response_id: client.responses.delete(response_id),
}


async def test_a_deleted_response_is_found_by_nobody_in_no_way() -> None:
    async with gateway(deleting(), keys=True) as mesh, mesh.client() as client:
        response = await client.responses.create(**ASK)
        reply = await client.responses.with_raw_response.delete(response.id)
        assert reply.http_response.json() == {"id": response.id, "object": "response", "deleted": True}
        for use in USES.values():
            with pytest.raises(openai.NotFoundError) as caught:
                await use(client, response.id)
            assert set(caught.value.body or ()) == {"message", "type", "param", "code"}
        assert mesh.writer.of(Delete) == [Delete(response_id=response.id, tenant="acme")]
        assert [query.tenant for query in mesh.writer.of(EraseResponse)] == ["acme"]


async def test_the_store_forgets_behind_the_logs_decision() -> None:
    seen: list[bool] = []

    def on_query(query: Any) -> Any:
        seen.append(any(isinstance(e.record, Deleted) for log in mesh.log.records.values() for e in log))
        return history(query)

    mesh = deleting(on_query=on_query)
    async with gateway(mesh), mesh.client() as client:
        await client.responses.delete((await client.responses.create(**ASK)).id)
        assert seen == [True]


async def test_what_still_runs_is_cancelled_first_and_its_reader_gets_its_end() -> None:
    def on_cancel(cancel: Cancel) -> list[Any]:
        log = Log(parse_response_id(cancel.response_id), "local")
        return [log.delta(0, "Ha"), log.terminal(Cancelled, "Ha")]

    async with gateway(deleting(only_accept, on_cancel=on_cancel)) as mesh, mesh.client() as client:
        stream = await client.responses.create(stream=True, **ASK)
        events: Any = [await anext(aiter(stream))]
        await client.responses.delete(events[0].response.id)
        events += [event async for event in stream]
        assert (events[-1].type, events[-1].response.status) == ("response.failed", "cancelled")
        kinds = [type(record) for _, record in mesh.writer.appended if isinstance(record, Cancel | Delete)]
        assert kinds == [Cancel, Delete]


async def test_who_reads_the_end_while_it_is_deleted_reads_on_and_nobody_joins() -> None:
    async with gateway(deleting(), keys=True) as mesh, mesh.client() as client:
        response_id = (await client.responses.create(**ASK)).id
        lease = await mesh.fanout.attach(parse_response_id(response_id))
        await client.responses.delete(response_id)
        assert mesh.fanout.find(parse_response_id(response_id)) is None
        for use in USES.values():
            with pytest.raises(openai.NotFoundError):
                await use(client, response_id)
        assert [event.type for event in await lease.cursor().batch()][-1] == "response.completed"
        lease.release()


@pytest.mark.parametrize("case", ["another tenant's", "unknown", "garbage", "not stored"])
async def test_what_is_not_the_callers_or_was_never_kept_is_404_and_stays(case: str) -> None:
    async with gateway(deleting(), keys=True) as mesh, mesh.client("sk-a") as ours, mesh.client("sk-b") as theirs:
        response = await ours.responses.create(store=case != "not stored", **ASK)
        wanted = {"unknown": new_response_id(1).text, "garbage": "resp_x"}.get(case, response.id)
        with pytest.raises(openai.NotFoundError):
            await (theirs if case == "another tenant's" else ours).responses.delete(wanted)
        assert mesh.writer.of(Delete) == []
        assert mesh.writer.of(EraseResponse) == []


async def test_an_owner_that_does_not_answer_is_a_503() -> None:
    async with gateway(deleting(on_delete=lambda _: []), cancel_timeout_s=0.05) as mesh, mesh.client() as client:
        response = await client.responses.create(**ASK)
        with pytest.raises(openai.InternalServerError, match=r"not deleted within 0\.05 s") as caught:
            await client.responses.delete(response.id)
        assert caught.value.status_code == 503
        assert mesh.writer.of(EraseResponse) == []
        assert (await client.responses.retrieve(response.id)).output_text == "Hello"


async def test_once_the_log_has_decided_history_may_be_away() -> None:
    async with gateway(deleting(on_query=lambda _: None), query_timeout_s=0.05) as mesh, mesh.client() as client:
        response = await client.responses.create(**ASK)
        await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)


class Store:
    """History with one response that the log has forgotten."""

    def __init__(self, log: Log, *, answers: bool = True) -> None:
        self.found: Any = (log.accepted(), log.terminal(Completed, "Long ago"))
        self.answers = answers

    def __call__(self, query: Any) -> Any:
        address = {"gateway": "gateway-1", "correlation_id": query.correlation_id}
        if isinstance(query, EraseResponse):
            if not self.answers:
                return None
            self.found = None
            return ResponseErased(**address)
        if self.found is None:
            return rejected(query, 404)
        return ResponseFound(**address, accepted=self.found[0], terminal=self.found[1])


async def test_what_only_the_store_holds_is_erased_there() -> None:
    log = Log(new_response_id(1), "local")
    # The log's `deleted` is not looked for: the store has the last word on what the log has forgotten.
    mesh = Mesh(on_query=Store(log))
    async with gateway(mesh), mesh.client() as client:
        assert (await client.responses.retrieve(log.id.text)).output_text == "Long ago"
        await client.responses.delete(log.id.text)
        assert mesh.writer.of(Delete) == [Delete(response_id=log.id.text, tenant="local")]
        for use in USES.values():
            with pytest.raises(openai.NotFoundError):
                await use(client, log.id.text)


async def test_what_only_the_store_holds_cannot_be_erased_without_it() -> None:
    log = Log(new_response_id(1), "local")
    mesh = Mesh(on_query=Store(log, answers=False))
    async with gateway(mesh, query_timeout_s=0.05), mesh.client() as client:
        with pytest.raises(openai.InternalServerError, match="history of responses does not answer") as caught:
            await client.responses.delete(log.id.text)
        assert caught.value.status_code == 503


@pytest.mark.parametrize("answer", [503, 500, "nonsense"])
async def test_a_store_that_cannot_answer_is_not_taken_for_one_that_has_nothing(answer: Any) -> None:
    def on_query(query: GetResponse) -> Any:
        if answer == "nonsense":
            return InputCounted(gateway="gateway-1", correlation_id=query.correlation_id, input_tokens=1)
        return rejected(query, answer)

    async with gateway(Mesh(on_query=on_query)) as mesh, mesh.client() as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.responses.retrieve(new_response_id(1).text)
        assert caught.value.status_code == (500 if answer == "nonsense" else answer)


# -- a response of a partition that is at home elsewhere ---------------------------------------------------------------


@pytest.fixture
async def fanout_and_log() -> Any:
    events = FakeLog()
    fanout = Fanout(
        "g", 4, make_tail=events.tail, replay=events.replay, presence=FakePresence(), put_aside=lambda *_: None,
        buffer_bytes=1 << 20,
    )  # fmt: skip
    await fanout.rehome(("g", "h"))
    yield fanout, events
    await fanout.stop()


def foreign_log() -> Log:
    (partition, *_) = set(range(4)) - home_partitions("g", ("g", "h"), 4)
    return Log(new_response_id(partition), "acme")


def ended(events: FakeLog, log: Log) -> ResponseId:
    for record in (log.accepted(), log.delta(0, "Hi"), log.terminal(text="Hi")):
        events.append(log.id.partition, record)
    return log.id


async def test_a_foreign_response_that_has_ended_is_followed_on_for_its_deletion(fanout_and_log: Any) -> None:
    fanout, events = fanout_and_log
    log = foreign_log()
    with await fanout.attach(ended(events, log)) as lease:
        assert len(events.tails) == 1, "who reads what has ended needs no consumer"
        lease.follow_beyond_the_end()
        lease.follow_beyond_the_end()
        events.append(log.id.partition, Deleted(response_id=log.id.text, tenant="acme"))
        async with asyncio.timeout(5):
            while not lease.stream.fold.deleted:
                await lease.stream.change()
        assert len(events.tails) == 2
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while not events.tails[1].stopped:
            await asyncio.sleep(0)


async def test_who_joins_a_stream_that_has_ended_learns_of_a_deletion_that_it_did_not_follow(
    fanout_and_log: Any,
) -> None:
    fanout, events = fanout_and_log
    log = foreign_log()
    with await fanout.attach(ended(events, log)) as slow:
        events.append(log.id.partition, Deleted(response_id=log.id.text, tenant="acme"))
        assert fanout.find(log.id) is None, "what has ended is looked up in the log"
        with await fanout.attach(log.id) as late:
            assert late.stream is slow.stream
            assert late.stream.fold.deleted
