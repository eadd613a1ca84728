"""Detectors in a running mesh, and a backend that asks a mesh's own Moderations API.

The engine says what it is told; the policy is an example that ships, beside patterns.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml
from openai import AsyncOpenAI

from deploy.brokers import Broker
from services.moderation.backends.building import build_backend
from services.moderation.backends.port import Backend, Excerpt
from services.moderation.policy import DEFAULT_POLICY, UpstreamSpec
from shared.records import MODERATION_CATEGORIES, Accepted, Completed, Delta, Verdict
from shared.topics import EVENTS, VERDICTS, Service
from tests.integration.conftest import MODEL
from tests.support.logs import records
from tests.support.mesh import Mesh

pytestmark = pytest.mark.any_broker

MAIL = "jane.doe+private@mail.example.org"
IBAN = "DE89 3704 0044 0532 0130 00"
KEY = "ghp_" + "a1B2c3D4e5F6" * 3
ASKED = (
    f"Please write to {MAIL}, or send it to {IBAN} if you like. The token is {KEY}, and that is all there is to say."
)
SAID = (
    "Please write to [personal data removed], or send it to [payment data removed] if you like. "
    "The token is [secret removed], and that is all there is to say."
)


def policy() -> dict[str, Any]:
    example: dict[str, Any] = yaml.safe_load((DEFAULT_POLICY.parent / "examples" / "personal-data.yaml").read_text())
    example["categories"]["harassment"] = {"patterns": ["crimson walrus"], "input": "flag", "output": "flag"}
    return example


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    folder = tmp_path_factory.mktemp("detectors")
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy(), sort_keys=False))
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "200",
        "CHATMESH_POLICY": str(folder / "policy.yaml"),
    }
    counts = {Service.GATEWAY: 1, Service.MODERATION: 1, Service.INFERENCE: 1}
    async with Mesh(broker, folder, env=env, counts=counts) as made:
        yield made


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0, timeout=60) as made:
        yield made


async def test_what_is_personal_or_secret_is_masked_while_it_streams(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model=MODEL, input=ASKED)
    assert whole.output_text == SAID
    stream = await client.responses.create(model=MODEL, input=ASKED, stream=True)
    deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == SAID
    assert len(deltas) > 3


async def test_nothing_of_it_reaches_a_public_log(mesh: Mesh, client: AsyncOpenAI) -> None:
    """But for `accepted`, which holds the user's own words for history."""
    response = await client.responses.create(model=MODEL, input=ASKED)
    public = [envelope.record for topic in (EVENTS, VERDICTS) for envelope in await records(mesh, topic)]
    said = [record for record in public if record.response_id == response.id and not isinstance(record, Accepted)]
    assert {type(record) for record in said} >= {Delta, Completed, Verdict}
    told = " ".join(map(repr, said))
    assert "[secret removed]" in told
    assert not any(secret in told for secret in (MAIL, IBAN, KEY))


async def test_verdicts_name_the_detectors(mesh: Mesh, client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input=ASKED)
    verdicts: list[Verdict] = [
        envelope.record for envelope in await records(mesh, VERDICTS) if envelope.record.response_id == response.id
    ]
    masked = {verdict.category: verdict for verdict in verdicts if verdict.action == "mask" and verdict.category}
    assert masked.keys() == {"personal-data", "payment-data", "secrets"}
    assert (masked["secrets"].start, masked["secrets"].end) == (ASKED.index(KEY), ASKED.index(KEY) + len(KEY))
    for verdict in (verdict for verdict in verdicts if verdict.stage == "output" and verdict.backends):
        assert {(report.name, report.status) for report in verdict.backends} <= {
            ("personal-data", "ok"),
            ("secrets", "ok"),
        }
        assert all(report.revision for report in verdict.backends)


@pytest.fixture
async def upstream(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backend]:
    monkeypatch.setenv("MESH_KEY", "local")
    spec = UpstreamSpec(kind="upstream", base_url=mesh.url, api_key_env="MESH_KEY", timeout_s=20.0)
    backend = build_backend("mesh", spec)
    await backend.start()
    yield backend
    await backend.stop()


async def test_a_mesh_can_be_another_one_s_upstream(upstream: Backend) -> None:
    texts = ["Hello", "What a crimson walrus", "Goodbye"]
    judgements = await upstream.judge([Excerpt(raw=text, text=text, stage="output") for text in texts])
    assert [judgement.scores["harassment"] for judgement in judgements] == [0.0, 1.0, 0.0]
    assert [judgement.flagged for judgement in judgements] == [set(), {"harassment"}, set()]
    assert all(judgement.scores.keys() == set(MODERATION_CATEGORIES) for judgement in judgements)
