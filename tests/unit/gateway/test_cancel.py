"""`POST /v1/responses/{id}/cancel` over a mesh in memory: the log decides, the answer follows it."""

import asyncio
from typing import Any

import openai
import pytest

from services.gateway.fanout import Fanout
from shared.ids import new_response_id, parse_response_id
from shared.records import Cancel, Cancelled, Completed, Failed, Incomplete, ResponseFound
from tests.unit.gateway.fakes import FakeLog, FakePresence
from tests.unit.gateway.harness import MODEL, Mesh, gateway, only_accept
from tests.unit.gateway.logs import Log

ASK: dict[str, Any] = {"model": MODEL, "input": "Say hello"}


def ends_as(kind: type[Any], **fields: Any) -> Any:
    def on_cancel(cancel: Cancel) -> list[Any]:
        log = Log(parse_response_id(cancel.response_id), "local")
        return [log.delta(0, "Ha"), log.terminal(kind, "Ha", **fields)]

    return on_cancel


async def test_a_cancel_answers_from_the_log_and_is_idempotent() -> None:
    async with gateway(Mesh(only_accept, on_cancel=ends_as(Cancelled))) as mesh, mesh.client() as client:
        running = await client.responses.create(background=True, **ASK)
        cancelled = await client.responses.cancel(running.id)
        assert (cancelled.status, cancelled.output_text) == ("cancelled", "Ha")
        assert (await client.responses.cancel(running.id)).to_dict() == cancelled.to_dict()
        assert [record.reason for record in mesh.writer.of(Cancel)] == ["requested"]


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (Completed, {}, "a completed"),
        (Incomplete, {"reason": "max_output_tokens"}, "an incomplete"),
        (Failed, {"code": "server_error", "message": "no"}, "a failed"),
    ],
)
async def test_what_ended_otherwise_cannot_be_cancelled(kind: type[Any], fields: dict[str, Any], words: str) -> None:
    # The end comes only after the cancel was appended: an earlier decision in the journal has won.
    async with gateway(Mesh(only_accept, on_cancel=ends_as(kind, **fields))) as mesh, mesh.client() as client:
        running = await client.responses.create(background=True, **ASK)
        for _ in range(2):
            with pytest.raises(openai.BadRequestError, match=f"Cannot cancel {words} response."):
                await client.responses.cancel(running.id)
        assert len(mesh.writer.of(Cancel)) == 1


async def test_an_owner_that_does_not_end_it_is_a_503() -> None:
    async with gateway(Mesh(only_accept), cancel_timeout_s=0.05) as mesh, mesh.client() as client:
        running = await client.responses.create(background=True, **ASK)
        with pytest.raises(openai.InternalServerError, match=r"within 0\.05 s") as caught:
            await client.responses.cancel(running.id)
        assert caught.value.status_code == 503


async def test_no_tenant_cancels_anothers() -> None:
    async with (
        gateway(Mesh(only_accept), keys=True) as mesh,
        mesh.client("sk-a") as ours,
        mesh.client("sk-b") as theirs,
    ):
        running = await ours.responses.create(background=True, **ASK)
        for response_id in (running.id, "resp_nothing"):
            with pytest.raises(openai.NotFoundError):
                await theirs.responses.cancel(response_id)
        assert mesh.writer.of(Cancel) == []


async def test_what_only_the_store_holds_is_answered_from_it() -> None:
    log = Log(new_response_id(1), "local")
    terminal = log.terminal(Cancelled, "Long ago")
    mesh = Mesh(
        on_query=lambda query: ResponseFound(
            gateway="gateway-1", correlation_id=query.correlation_id, accepted=log.accepted(), terminal=terminal
        )
    )
    async with gateway(mesh) as mesh, mesh.client() as client:
        assert (await client.responses.cancel(log.id.text)).output_text == "Long ago"
        assert mesh.writer.of(Cancel) == []


async def test_a_full_gateway_still_cancels() -> None:
    mesh = Mesh(only_accept, on_cancel=ends_as(Cancelled))
    async with gateway(mesh, max_in_flight=1), mesh.client() as client:
        stream = await client.responses.create(stream=True, **ASK)
        created: Any = await anext(aiter(stream))
        assert (await client.responses.cancel(created.response.id)).status == "cancelled"
        assert [event.type async for event in stream][-1] == "response.failed"


async def test_a_reader_that_left_while_catching_up_does_not_hide_the_next_ones_replay(log: Log) -> None:
    events, presence = FakeLog(), FakePresence()
    events.append(log.id.partition, log.accepted())
    fanout = Fanout(
        "g", 4, make_tail=events.tail, replay=events.replay, presence=presence, put_aside=lambda *_: None,
        buffer_bytes=1 << 20,
    )  # fmt: skip
    await fanout.rehome(())
    events.replay_gate.clear()
    first = asyncio.create_task(fanout.attach(log.id))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate, events.replay_gate = events.replay_gate, asyncio.Event()
    second = asyncio.create_task(fanout.attach(log.id))
    await asyncio.sleep(0)
    gate.set()  # only the first reader's replay ends
    for _ in range(5):
        await asyncio.sleep(0)
    assert fanout.find(log.id) is None
    events.replay_gate.set()
    lease = await second
    assert lease is not None
    assert fanout.find(log.id) is lease.stream
    await fanout.stop()
