"""`client.responses.connect()`: one connection, many responses, and what happens when it breaks."""

import asyncio
import itertools
from typing import Any

import openai
import pytest
from openai.types.websocket_reconnection import ReconnectingEvent, ReconnectingOverrides
from websockets.exceptions import InvalidStatus

from tests.clients.python_sdk.sdk import ENDS, Sdk, client, server_event, until_end
from tests.clients.scene import GLOBEX, LONG, MODEL, UNKNOWN, Line, Scene

TEXT = "The log is the stream."


async def answer(connection: Any, text: str = TEXT, **fields: Any) -> Any:
    """The last event of a response."""
    await connection.response.create(model=MODEL, input=text, **fields)
    return (await until_end(connection))[-1]


async def test_create(asdk: Sdk) -> None:
    async with asdk.aclient.responses.connect() as connection:
        await connection.response.create(model=MODEL, input=TEXT)
        events = await until_end(connection)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == TEXT
    assert events[-1].response.output_text == TEXT
    assert all(event.stream_id is None for event in events)


async def test_create_by_the_sync_client(scene: Scene) -> None:
    sdk = client("sync", scene.url)

    def converse() -> list[str]:
        texts = []
        with sdk.sclient.responses.connect() as connection:
            for text in ("First.", "Second."):
                connection.response.create(model=MODEL, input=text)
                while (event := server_event(connection.recv_bytes())).type not in ENDS:
                    pass
                assert event.type == "response.completed"
                texts.append(event.response.output_text)
        return texts

    assert await asyncio.to_thread(converse) == ["First.", "Second."]
    await sdk.close()


async def test_the_same_events_as_over_http(asdk: Sdk) -> None:
    async with asdk.aclient.responses.connect() as connection:
        await connection.response.create(model=MODEL, input=TEXT, metadata={"team": "atlas"})
        live = await until_end(connection)
    again = await asdk.all(lambda c: c.responses.retrieve(live[0].response.id, stream=True))
    assert [event.to_dict() for event in live] == [event.to_dict() for event in again]


async def test_dispatching_to_handlers(asdk: Sdk) -> None:
    texts: list[str] = []
    async with asdk.aclient.responses.connect() as connection:

        async def ended(event: Any) -> None:
            texts.append(event.response.output_text)
            await connection.close()

        connection.on("response.completed", ended)
        await connection.response.create(model=MODEL, input=TEXT)
        async with asyncio.timeout(30):
            await connection.dispatch_events()
    assert texts == [TEXT]


async def test_lanes_run_side_by_side_and_each_in_order(asdk: Sdk) -> None:
    async with asdk.aclient.responses.connect() as connection:
        for turn in range(2):
            for lane in ("a", "b", "c"):
                text = f"lane {lane} turn {turn} " * 20
                await connection.response.create(model=MODEL, input=text.strip(), stream_id=lane)
        order: list[str | None] = []
        ended: dict[str, list[str]] = {"a": [], "b": [], "c": []}
        async with asyncio.timeout(60):
            while sum(map(len, ended.values())) < 6:
                event = server_event(await connection.recv_bytes())
                order.append(event.stream_id)
                if event.type in ENDS:
                    ended[event.stream_id].append(event.response.output_text)
    for lane, texts in ended.items():
        assert texts == [(f"lane {lane} turn {turn} " * 20).strip() for turn in range(2)]
    changes = sum(one != two for one, two in itertools.pairwise(order))
    assert changes > 12, "lanes that ran one after the other"


@pytest.mark.parametrize("store", [True, False])
async def test_a_conversation_on_one_connection(asdk: Sdk, store: bool) -> None:
    async with asdk.aclient.responses.connect() as connection:
        first = (await answer(connection, "First.", store=store)).response
        second = (await answer(connection, "Second.", store=store, previous_response_id=first.id)).response
    assert (second.output_text, second.previous_response_id) == ("Second.", first.id)
    assert second.usage.input_tokens > first.usage.total_tokens


async def test_a_response_without_output_is_continued(asdk: Sdk) -> None:
    async with asdk.aclient.responses.connect() as connection:
        warm = (await answer(connection, "First.", generate=False)).response
        assert (warm.status, warm.output) == ("completed", [])
        second = (await answer(connection, "Second.", previous_response_id=warm.id)).response
        alone = (await answer(connection, "Second.")).response
    assert second.output_text == "Second."
    assert second.usage.input_tokens > alone.usage.input_tokens


async def test_what_one_transport_began_another_continues(asdk: Sdk, other: Sdk) -> None:
    async with other.aclient.responses.connect() as connection:
        first = (await answer(connection, "First.")).response
        second = await asdk.call(
            lambda c: c.responses.create(model=MODEL, input="Second.", previous_response_id=first.id)
        )
        third = (await answer(connection, "Third.", previous_response_id=second.id)).response
    assert third.output_text == "Third."
    assert first.usage.input_tokens < second.usage.input_tokens < third.usage.input_tokens


async def test_steering_is_refused_as_the_sdk_expects(asdk: Sdk) -> None:
    async with asdk.aclient.responses.connect() as connection:
        first = (await answer(connection)).response
        await connection.response.steer(previous_response_id=first.id, input="Faster!")
        async with asyncio.timeout(10):
            event = server_event(await connection.recv_bytes())
        assert event.type == "response.steer.failed"
        assert event.error.code == "steering_not_supported"
        assert (event.steer.previous_response_id, event.steer.input) == (first.id, "Faster!")
        assert (await answer(connection)).type == "response.completed"


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "gpt-none"}, 404, "model_not_found"),
        ({"previous_response_id": "resp_nope"}, 400, "previous_response_not_found"),
        ({"temperature": 3}, 400, None),
        ({"background": True}, 400, "unsupported_parameter"),
        ({"input": "a green submarine"}, 400, "content_policy_violation"),
        ({"stream_id": "a lane"}, 400, "invalid_stream_id"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
async def test_errors_leave_the_connection_open(
    asdk: Sdk, fields: dict[str, Any], status: int, code: str | None
) -> None:
    async with asdk.aclient.responses.connect() as connection:
        await connection.response.create(**{"model": MODEL, "input": TEXT, **fields})
        [error] = await until_end(connection)
        assert (error.type, error.status) == ("error", status)
        assert code is None or error.error.code == code
        assert (await answer(connection)).type == "response.completed"


async def test_an_error_nobody_handles_is_raised(asdk: Sdk) -> None:
    async with asdk.aclient.responses.connect() as connection:
        await connection.response.create(model="gpt-none", input=TEXT)
        with pytest.raises(openai.OpenAIError, match="gpt-none"):
            async with asyncio.timeout(10):
                await connection.dispatch_events()


async def test_closing_frees_the_slot(asdk: Sdk, scene: Scene) -> None:
    async with asdk.aclient.responses.connect() as connection:
        await connection.response.create(model=MODEL, input=LONG)
        while server_event(await connection.recv_bytes()).type != "response.output_text.delta":
            pass
    await scene.until_idle()


async def test_a_broken_connection_resumes_at_another_gateway(scene: Scene) -> None:
    text = " ".join(f"word{n}" for n in range(120))
    seen: list[Any] = []
    closes: list[int] = []

    def resume(event: ReconnectingEvent) -> ReconnectingOverrides:
        closes.append(event.close_code)
        last = seen[-1].sequence_number
        query = {"response_id": seen[0].response.id, "starting_after": str(last)}
        return {"extra_query": query}

    async with Line([scene.url, scene.other_url]) as line:
        sdk = client("async", line.url)
        async with (
            asyncio.timeout(60),
            sdk.aclient.responses.connect(on_reconnecting=resume, initial_delay=0.05) as connection,
        ):
            await connection.response.create(model=MODEL, input=text)
            async for event in connection:
                seen.append(event)
                if event.type == "response.output_text.delta" and line.connections == 1 and len(seen) > 12:
                    line.cut()
                if event.type in ENDS:
                    break
        await sdk.close()
    assert (line.connections, closes) == (2, [1006])
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    said = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert said == seen[-1].response.output_text == text


async def test_a_key_that_nobody_knows_is_refused_in_the_handshake(scene: Scene) -> None:
    sdk = client("async", scene.url, UNKNOWN)
    with pytest.raises(InvalidStatus) as caught:
        await sdk.aclient.responses.connect().enter()
    assert caught.value.response.status_code == 401
    await sdk.close()


async def test_another_tenant_cannot_resume(scene: Scene, asdk: Sdk) -> None:
    ours = await asdk.call(lambda c: c.responses.create(model=MODEL, input=TEXT))
    sdk = client("async", scene.url, GLOBEX)
    query = {"response_id": ours.id, "starting_after": "0"}
    async with sdk.aclient.responses.connect(extra_query=query) as connection:
        [error] = await until_end(connection)
    assert (error.type, error.status) == ("error", 404)
    await sdk.close()
