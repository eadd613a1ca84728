"""One mesh for the suites of those who read our topics, and the responses that clients made there."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.ids import new_response_id
from shared.log import LogWriter
from shared.records import Completed, Events, Screening, Usage
from shared.topics import EVENTS, Service
from tests.integration.conftest import MODEL
from tests.support.mesh import PATIENT, Mesh

TEXTS = ("The birds sing.", 'Sie sagte: "Grüße 👋🏽", und ging.', "and on " * 40)


@dataclass(frozen=True)
class Told:
    """What clients were told of a response that ended."""

    id: str
    status: str
    input_tokens: int
    output_tokens: int
    text: str


@pytest.fixture(scope="package")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Each answer repeats its prompt."""
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "500",
        **PATIENT,
    }
    async with Mesh(broker, tmp_path_factory.mktemp("consumers"), env=env) as running:
        yield running


@pytest.fixture(scope="package")
async def told(mesh: Mesh) -> list[Told]:
    """Three that were completed, one that ran into its limit, and one whose owner was replaced while it ran."""
    found: list[Told] = []
    asked: list[dict[str, Any]] = [*({"input": text} for text in TEXTS), {"input": TEXTS[2], "max_output_tokens": 16}]
    async with AsyncOpenAI(base_url=mesh.url, api_key="none", max_retries=0, timeout=60) as client:
        for wish in asked:
            made = await client.responses.create(model=MODEL, **wish)
            assert made.usage is not None and made.status is not None
            used = made.usage
            found.append(Told(made.id, made.status, used.input_tokens, used.output_tokens, made.output_text))
        conversation = await client.conversations.create()
        await client.conversations.delete(conversation.id)
    return [*found, await taken_over(mesh)]


async def taken_over(mesh: Mesh) -> Told:
    """A response as the log has it when its owner stood still, was replaced and went on: of three ends one counts."""
    name = new_response_id(0).text
    end = Completed(
        response_id=name, epoch=2, tenant="t", text="What counts.", usage=Usage(input_tokens=3, output_tokens=2),
        finished_ms=1,
    )  # fmt: skip
    stale = Completed(
        response_id=name, epoch=1, tenant="t", text="What", usage=Usage(input_tokens=3, output_tokens=1), finished_ms=1
    )
    records: list[Events] = [Screening(response_id=name, epoch=2, owner="b"), stale, end, end]
    writer = LogWriter(mesh.settings, Service.MODERATION, "moderation-test")
    await writer.start()
    try:
        for record in records:
            await writer.append(EVENTS, record)
    finally:
        await writer.stop()
    return Told(name, "completed", end.usage.input_tokens, end.usage.output_tokens, end.text)
