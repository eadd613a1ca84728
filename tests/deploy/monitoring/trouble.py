"""What users and records do to a mesh that its logs must not repeat: everything here holds `CANARY` or `KEY`."""

import asyncio
import contextlib
import json
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer
from openai import AsyncOpenAI, OpenAIError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shared.log.clients import topic_name
from shared.topics import (
    CONTEXT,
    DEAD_LETTERS,
    EVENTS,
    HEARTBEATS,
    HISTORY_QUERIES,
    JOBS,
    JOURNAL,
    LEDGER,
    MODERATION_QUERIES,
    REPLIES,
    Topic,
)
from tests.support.logs import raw_records
from tests.support.mesh import Mesh
from tests.support.policies import CUT_PHRASE, REFUSE_PHRASE

CANARY = "Zaunkönig-7141"
KEY = "sk-canary-5d1f0a77c2"
WRONG_KEY = "sk-canary-wrong-88e1"
POISON = "hemlock"
UNJUDGED = "unspeakable"
HIDDEN = (CANARY, "Zaunk\\u00f6nig-7141", "Zaunk", KEY, WRONG_KEY)
"""What may stand in no line, however it is escaped."""
_TRACED = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": f"Zaunk is no list, {KEY}"}

_UNREADABLE: tuple[tuple[str, list[tuple[str, bytes | None]]], ...] = (
    (f'{{"type": "{CANARY}"}}', []),
    (f'{{"type": "requested", "role": "{CANARY}"', []),
    (f'{{"type": "get_response", "response_id": ["{CANARY}"], "tenant": {{"{CANARY}": 1}}}}', []),
    (f'"{CANARY}"', []),
    (f'{{"type": "{CANARY}"}}', [("ce_type", None), ("ce_schemaversion", None), ("traceparent", None)]),
    (f'{{"{CANARY}": {"[" * 100_000}', []),
    (f'{{"type": "{CANARY}"}}', [("ce_schemaversion", b"9" * 5_000)]),
)
_BURIED = (JOURNAL, EVENTS, JOBS, CONTEXT, HISTORY_QUERIES, MODERATION_QUERIES)
_LEFT_OUT = (REPLIES, LEDGER, HEARTBEATS)
_DEADLINE_S = 90.0


async def make_trouble(mesh: Mesh) -> None:
    """Good requests, bad ones, a poisoned one, and records that nobody can read; returns when all have ended."""
    async with AsyncOpenAI(base_url=mesh.url, api_key=KEY, max_retries=0, timeout=60) as client:
        model = (await client.models.list()).data[0].id
        await asyncio.gather(
            *(_streams(client, model, f"{CANARY} number {number} {'and so on ' * 20}") for number in range(5)),
            _streams(client, model, f"{CANARY} is {UNJUDGED}"),
            _converses(client, model),
            _streams(client, model, f"{CANARY} {CUT_PHRASE} {CANARY}"),
            _is_refused(client, model),
            _errs(mesh, model),
            _speaks_nonsense(mesh),
            client.moderations.create(input=f"{CANARY} {REFUSE_PHRASE}"),
        )
        await _unreadable_records(mesh)
        await _streams(client, model, f"{CANARY} and after all that.")
        with contextlib.suppress(OpenAIError):  # it ends as failed, once every engine has tried
            await _streams(client, model, f"{CANARY} {POISON}")


async def _streams(client: AsyncOpenAI, model: str, text: str) -> None:
    async with client.responses.stream(model=model, input=text) as stream:
        async for _ in stream:
            pass


async def _converses(client: AsyncOpenAI, model: str) -> None:
    talk = await client.conversations.create(metadata={"about": CANARY})
    for _ in range(2):
        await client.responses.create(model=model, input=CANARY, conversation=talk.id, instructions=CANARY)
    await client.conversations.items.list(talk.id)
    await client.conversations.delete(talk.id)


async def _is_refused(client: AsyncOpenAI, model: str) -> None:
    try:
        await client.responses.create(model=model, input=f"{CANARY} {REFUSE_PHRASE}")
    except OpenAIError:
        return
    raise AssertionError("the policy refuses this input")


async def _errs(mesh: Mesh, model: str) -> None:
    """Requests that are refused before anything becomes of them."""
    bodies: list[Any] = [
        {"model": model, "input": CANARY, CANARY: CANARY},
        {"model": CANARY, "input": CANARY},
        {"model": model, "input": [{"role": CANARY, "content": CANARY}]},
        {"model": model, "input": CANARY, "temperature": CANARY},
        {"model": model, "input": CANARY, "previous_response_id": CANARY},
        [CANARY],
    ]
    # A connection each: one that was idle while this machine was busy may be closed just when it is used again.
    fresh = httpx.Limits(max_keepalive_connections=0)
    headers = {"authorization": f"Bearer {KEY}", **_TRACED}
    async with httpx.AsyncClient(base_url=mesh.url, headers=headers, limits=fresh, timeout=60) as http:
        answers = [await http.post("/responses", json=body) for body in bodies]
        answers.append(await http.post("/responses", content=f'{{"input": "{CANARY}'.encode()))
        answers.append(await http.get(f"/responses/{CANARY}", params={"api_key": KEY}))
        answers.append(await http.get("/models", headers={"authorization": f"Bearer {WRONG_KEY}"}))
    assert all(400 <= answer.status_code < 500 for answer in answers), answers


async def _speaks_nonsense(mesh: Mesh) -> None:
    address = mesh.url.replace("http://", "ws://") + "/responses"
    async with connect(address, additional_headers={"authorization": f"Bearer {KEY}"}) as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send(json.dumps({"type": CANARY}))
            await socket.send(CANARY)
            await socket.recv()
            await socket.send(b"\xff" + CANARY.encode())
            await socket.recv()


async def _unreadable_records(mesh: Mesh) -> None:
    """Into every topic, and wait until whoever reads it has put each aside."""
    producer = AIOKafkaProducer(bootstrap_servers=mesh.broker.bootstrap)
    await producer.start()
    try:
        for topic in (*_BURIED, *_LEFT_OUT):
            for value, headers in _UNREADABLE:
                name = topic_name(mesh.settings, topic)
                await producer.send_and_wait(name, value.encode(), partition=0, headers=headers)
    finally:
        await producer.stop()
    async with asyncio.timeout(_DEADLINE_S):
        for topic in _BURIED:
            while await _letters(mesh, topic) < len(_UNREADABLE):
                await asyncio.sleep(0.2)


async def _letters(mesh: Mesh, topic: Topic) -> int:
    return len(await raw_records(mesh, DEAD_LETTERS[topic.name]))
