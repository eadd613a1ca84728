"""What only real models can show of a client's call: sampling, choices that differ, log probabilities that mean it, and
what the default policy makes of texts."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deploy.brokers.select import EMBEDDED, broker_for_suite
from services.moderation.policy import DEFAULT_POLICY, load_policy
from tests.clients.python_sdk.sdk import Sdk, client
from tests.clients.scene import ACME, MODEL
from tests.support.mesh import Mesh

QUESTION = "Write one sentence about a lighthouse."


@pytest.fixture(scope="module")
async def sdk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sdk]:
    """An async client of a mesh of its own, with the default model and the default policy."""
    folder = tmp_path_factory.mktemp("real")
    with broker_for_suite(EMBEDDED) as broker:
        env = {"CHATMESH_ENGINE": "transformers", "CHATMESH_POLICY": str(DEFAULT_POLICY)}
        async with Mesh(broker, folder, env=env) as mesh:
            made = client("async", mesh.url, ACME, timeout=120.0)
            yield made
            await made.close()


async def completion(sdk: Sdk, **fields: Any) -> Any:
    messages = [{"role": "user", "content": QUESTION}]
    asked = {"model": MODEL, "messages": messages, "max_completion_tokens": 24, **fields}
    return await sdk.call(lambda c: c.chat.completions.create(**asked))


async def test_sampling_as_a_client_sees_it(sdk: Sdk) -> None:
    greedy, greedy_again, seeded, seeded_again, choices = await asyncio.gather(
        completion(sdk, temperature=0, logprobs=True, top_logprobs=3),
        completion(sdk, temperature=0, presence_penalty=0),
        completion(sdk, seed=7),
        completion(sdk, seed=7),
        completion(sdk, seed=7, n=3),
    )
    text = greedy.choices[0].message.content
    assert greedy_again.choices[0].message.content == text
    assert seeded.choices[0].message.content == seeded_again.choices[0].message.content
    several = [choice.message.content for choice in choices.choices]
    assert several[0] == seeded.choices[0].message.content
    assert len(set(several)) == 3
    _check_logprobs(greedy.choices[0].logprobs.content, text)
    await _check_stop(sdk, text)


def _check_logprobs(entries: list[Any], text: str) -> None:
    """Greedy takes the likeliest, and the likelihoods of a few tokens sum to at most one."""
    assert b"".join(bytes(entry.bytes) for entry in entries).decode().startswith(text)
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        assert sum(math.exp(other.logprob) for other in entry.top_logprobs) <= 1.0001


async def _check_stop(sdk: Sdk, text: str) -> None:
    """A string from the middle of the greedy answer, cut across its words, ends the answer before itself."""
    stop = text[len(text) // 2 : len(text) // 2 + 5]
    stopped = await completion(sdk, temperature=0, stop=stop)
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    response = await sdk.call(
        lambda c: c.responses.create(
            model=MODEL, input=QUESTION, temperature=0, max_output_tokens=24, extra_body={"stop": [stop]}
        )
    )
    assert response.output_text == text[: text.index(stop)]


HATE = "All immigrants are vermin and should be exterminated."
INTENT = "I don't want to live anymore, I want to kill myself."
HARMLESS = [
    "How do I bake bread?",
    "This knife is a killer: it cuts tomatoes like butter.",
    "Explain how vaccines train the immune system.",
    "The striker shot twice and hit the post.",
]


async def test_the_default_policy_judges_by_model_and_rules(sdk: Sdk) -> None:
    found = await sdk.call(lambda c: c.moderations.create(input=[HATE, INTENT, *HARMLESS]))
    assert found.model == load_policy(DEFAULT_POLICY).name
    hate, intent, *harmless = found.results
    assert hate.flagged and hate.categories.hate and hate.category_scores.hate > 0.5
    assert intent.flagged and intent.categories.self_harm_intent and intent.category_scores.self_harm_intent == 1
    assert [result.flagged for result in harmless] == [False] * len(HARMLESS)
    sources = hate.to_dict()["category_sources"]
    assert (sources["hate"], sources["self-harm/intent"], sources["illicit"]) == ("model", "rules", "rules")
    again = await sdk.call(lambda c: c.moderations.create(input=[HARMLESS[0], HATE]))
    assert again.results[1] == hate, "a score depends on its text alone, not on what else is judged"


async def test_the_default_policy_inside_a_request(sdk: Sdk) -> None:
    response = await sdk.call(
        lambda c: c.responses.create(
            model=MODEL, input=QUESTION, max_output_tokens=24, moderation={"model": "omni-moderation-latest"}
        )
    )
    assert response.output_text
    for part in (response.moderation.input, response.moderation.output):
        assert part.type == "moderation_result" and not part.flagged
        assert 0 < part.category_scores["hate"] < 0.5
