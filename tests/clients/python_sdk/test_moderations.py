"""`client.moderations`, and moderation that `responses.create` and `chat.completions.create` ask for."""

from typing import Any

import openai
import pytest

from services.moderation.policy import parse_policy
from tests.clients.python_sdk.sdk import Sdk, client
from tests.clients.scene import UNKNOWN, Scene
from tests.support.policies import REFUSE_PHRASE, TEST_POLICY

POLICY = parse_policy(TEST_POLICY).name
FINE, BAD = "How do I bake bread?", f"Where is the {REFUSE_PHRASE}?"
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def create(**fields: Any) -> Any:
    return lambda c: c.moderations.create(**fields)


async def test_a_string(sdk: Sdk) -> None:
    found = await sdk.call(create(input=BAD))
    assert found.id.startswith("modr_") and found.model == POLICY
    (result,) = found.results
    assert result.flagged and result.categories.illicit and not result.categories.illicit_violent
    assert (result.category_scores.illicit, result.category_scores.sexual_minors) == (1, 0)
    assert result.category_applied_input_types.illicit == ["text"]
    assert len(result.categories.to_dict()) == len(result.category_scores.to_dict()) == 13


async def test_a_list_has_a_result_for_each_string(sdk: Sdk) -> None:
    found = await sdk.call(create(input=[FINE, BAD, FINE], model="omni-moderation-latest"))
    assert [result.flagged for result in found.results] == [False, True, False]


async def test_text_parts_are_one_input(sdk: Sdk) -> None:
    parts = [{"type": "text", "text": text} for text in (FINE, BAD)]
    found = await sdk.call(create(input=parts, model="omni-moderation-2024-09-26"))
    assert [result.flagged for result in found.results] == [True]


async def test_the_raw_response(sdk: Sdk) -> None:
    raw = await sdk.call(lambda c: c.moderations.with_raw_response.create(input=FINE))
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["openai-version"] and int(raw.headers["openai-processing-ms"]) >= 0
    assert not raw.parse().results[0].flagged


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": [IMAGE]}, "input[0].type", "only text is judged"),
        ({"input": [{"type": "text", "text": FINE}, IMAGE]}, "input[1].type", "only text is judged"),
        ({"input": ""}, "input", "0 characters"),
        ({"input": []}, "input", "0 entries"),
        ({"input": [1, 2]}, "input", "not tokens"),
    ],
)
async def test_what_is_not_judged_is_said(sdk: Sdk, fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        await sdk.call(create(**fields))
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


async def test_a_model_that_is_not_the_server_s_is_not_found_and_the_one_that_it_names_is(sdk: Sdk) -> None:
    with pytest.raises(openai.NotFoundError, match="omni-moderation-latest") as caught:
        await sdk.call(create(input=FINE, model="gpt-none"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert (await sdk.call(create(input=FINE, model=POLICY))).model == POLICY


async def test_an_unknown_key(scene: Scene) -> None:
    sdk = client("async", scene.url, UNKNOWN)
    with pytest.raises(openai.AuthenticationError):
        await sdk.call(create(input=FINE))
    await sdk.close()
