"""Several gateways and one ledger: limits that hold over all of them, and requests that come twice."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.mesh import Mesh

COUNTS = {Service.GATEWAY: 2, Service.MODERATION: 1, Service.INFERENCE: 1, Service.HISTORY: 1}
LIMIT, OTHERS_LIMIT, STALE_LIMIT, TOKENS = 60, 40, 20, 4000
KEYS = {f"sk-{tenant}": {"tenant": tenant} for tenant in ("many", "few", "stale", "heavy", "free")}
LIMITS = {
    "tenants": {
        "many": {"requests_per_minute": LIMIT},
        "few": {"requests_per_minute": OTHERS_LIMIT},
        "stale": {"requests_per_minute": STALE_LIMIT},
        "heavy": {"tokens_per_minute": TOKENS},
    }
}
SHORT: dict[str, Any] = {"model": MODEL, "input": "Go on.", "max_output_tokens": 2}
LONG: dict[str, Any] = {"model": MODEL, "input": "Go on.", "max_output_tokens": 60}
GIVEN_BACK_S = 90
"""Once in ten minutes the ledger counts what was refused as well, for a minute (`fold.RESYNC_MS`)."""


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """40 tokens a second: LONG runs for 1.5 s."""
    folder: Path = tmp_path_factory.mktemp("ledger")
    for name, content in (("keys", KEYS), ("limits", LIMITS)):
        (folder / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "40",
        "CHATMESH_SLOTS": "256",
        "CHATMESH_API_KEYS": str(folder / "keys.yaml"),
        "CHATMESH_RATE_LIMITS": str(folder / "limits.yaml"),
    }
    async with Mesh(broker, folder, env=env, counts=COUNTS) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:
        yield client


async def post(http: httpx.AsyncClient, url: str, tenant: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return await http.post(f"{url}/responses", json=body, headers={"authorization": f"Bearer sk-{tenant}", **headers})


async def test_no_gateway_lets_in_more_than_the_limit_nor_less(mesh: Mesh, http: httpx.AsyncClient) -> None:
    """400 at once of two tenants, at both gateways; then a gateway dies and its successor knows what it let in."""
    urls = mesh.urls()
    asked = [("many" if number % 8 < 6 else "few", urls[number % 2]) for number in range(400)]
    answers = await asyncio.gather(*(post(http, url, tenant, SHORT) for tenant, url in asked))
    admitted = Counter(tenant for (tenant, _), answer in zip(asked, answers, strict=True) if answer.status_code == 200)
    assert admitted == {"many": LIMIT, "few": OTHERS_LIMIT}
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {429}
    assert all(0 < int(answer.headers["retry-after-ms"]) <= 60_000 for answer in refused)
    victim = mesh.of(Service.GATEWAY)[0]
    await asyncio.to_thread(victim.process.kill)
    mesh.retire(victim)
    mesh.add(Service.GATEWAY)
    await mesh.wait_ready(service=Service.GATEWAY)
    for url in mesh.urls():
        for tenant, limit in (("many", LIMIT), ("few", OTHERS_LIMIT)):
            again = await post(http, url, tenant, SHORT)
            assert (again.status_code, again.headers["x-ratelimit-limit-requests"]) == (429, str(limit))
            assert again.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await post(http, url, "free", SHORT)).status_code == 200


async def test_a_gateway_that_stood_still_lets_in_nothing_above_the_limit(mesh: Mesh, http: httpx.AsyncClient) -> None:
    """What it knew when it was stopped says that all would fit; meanwhile the other one gave everything away."""
    stopped, other = mesh.of(Service.GATEWAY)
    there, here = (f"http://127.0.0.1:{gateway.port}/v1" for gateway in (stopped, other))
    stopped.process.signal(signal.SIGSTOP)
    try:
        late = [asyncio.create_task(post(http, there, "stale", SHORT)) for _ in range(STALE_LIMIT)]
        in_time = await asyncio.gather(*(post(http, here, "stale", SHORT) for _ in range(STALE_LIMIT)))
    finally:
        stopped.process.signal(signal.SIGCONT)
    assert {answer.status_code for answer in in_time} == {200}
    assert {answer.status_code for answer in await asyncio.gather(*late)} == {429}


async def test_tokens_are_kept_over_gateways_and_given_back(mesh: Mesh, http: httpx.AsyncClient) -> None:
    """Each request may use the limit's half and more, and uses few: one at a time fits, again and again."""
    body = {**SHORT, "max_output_tokens": TOKENS // 2}
    endless = {**body, "background": True}
    asked = await asyncio.gather(*(post(http, mesh.urls()[number % 2], "heavy", endless) for number in range(12)))
    assert Counter(answer.status_code for answer in asked) == {200: 1, 429: 11}
    (running,) = [answer.json()["id"] for answer in asked if answer.status_code == 200]
    cancelled = await http.post(f"{mesh.url}/responses/{running}/cancel", headers={"authorization": "Bearer sk-heavy"})
    assert cancelled.json()["status"] == "cancelled"
    body |= {"stop": [" "]}  # the script's first word
    async with asyncio.timeout(GIVEN_BACK_S):
        for number in range(4):
            while (answer := await post(http, mesh.urls()[number % 2], "heavy", body)).status_code == 429:
                assert answer.json()["error"]["type"] == "tokens"
                await asyncio.sleep(0.05)
            assert answer.status_code == 200


async def test_a_request_that_comes_twice_is_generated_once(mesh: Mesh, http: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "twice"}
    asked = await asyncio.gather(*(post(http, mesh.urls()[n % 2], "free", SHORT, **key) for n in range(12)))
    assert {answer.status_code for answer in asked} == {200}
    assert len({answer.json()["id"] for answer in asked}) == 1
    assert len({answer.content for answer in asked}) == 1
    other = await post(http, mesh.urls()[1], "free", {**SHORT, "input": "Stop."}, **key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert (await post(http, mesh.urls()[1], "heavy", SHORT, **key)).status_code in (200, 429), "another tenant's key"


async def test_a_stream_whose_gateway_dies_is_found_again_by_its_key(mesh: Mesh) -> None:
    key = {"Idempotency-Key": "killed"}
    victim = mesh.of(Service.GATEWAY)[0]
    url = f"http://127.0.0.1:{victim.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="sk-free", max_retries=0) as there:
        stream = await there.responses.create(stream=True, extra_headers=key, **LONG)
        response_id = (await anext(aiter(stream))).response.id
        await asyncio.to_thread(victim.process.kill)
        mesh.retire(victim)
    async with AsyncOpenAI(base_url=mesh.url, api_key="sk-free", max_retries=0) as heir:
        events = [event async for event in await heir.responses.create(stream=True, extra_headers=key, **LONG)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.id == response_id
    assert events[-1].response.usage.output_tokens == LONG["max_output_tokens"]
