"""`client.moderations`, and moderation that `responses.create` and `chat.completions.create` ask for."""

from typing import Any

import openai
import pytest

from services.moderation.policy import parse_policy
from tests.clients.python_sdk.sdk import Sdk, client
from tests.clients.scene import MODEL, UNKNOWN, Scene
from tests.support.policies import CUT_PHRASE, REFUSE_PHRASE, TEST_POLICY

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


# -- inside a request ------------------------------------------------------------------------------------------------

TEXT = "The log is the stream."
CUT = f"All is well. Then came the {CUT_PHRASE} over the hill."
ASKED: Any = {"model": MODEL, "moderation": {"model": "omni-moderation-latest"}}


async def test_a_response_has_both_results(sdk: Sdk) -> None:
    response = await sdk.call(lambda c: c.responses.create(input=TEXT, **ASKED))
    moderation = response.moderation
    assert moderation.input.type == moderation.output.type == "moderation_result"
    assert (moderation.input.flagged, moderation.output.flagged, moderation.output.model) == (False, False, POLICY)
    assert len(moderation.output.categories) == 13
    assert (await sdk.call(lambda c: c.responses.retrieve(response.id))).moderation == moderation


async def test_a_stream_has_them_at_its_end(sdk: Sdk) -> None:
    events, response = await sdk.helped(lambda c: c.responses.stream(input=TEXT, **ASKED), "get_final_response")
    assert events[0].response.moderation is None
    assert response.moderation.output.flagged is False


async def test_a_stream_that_is_cut_has_them_too(sdk: Sdk) -> None:
    events = await sdk.all(lambda c: c.responses.create(input=CUT, stream=True, **ASKED))
    response = events[-1].response
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "content_filter")
    assert (response.moderation.input.flagged, response.moderation.output.flagged) == (False, True)
    assert response.moderation.output.categories["violence"]


async def test_blocked_input_is_a_bad_request_that_names_its_field(sdk: Sdk) -> None:
    blocking = {**ASKED, "moderation": {**ASKED["moderation"], "policy": {"input": {"mode": "block"}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.call(lambda c: c.responses.create(input=CUT, **blocking))
    assert (caught.value.code, caught.value.param) == ("content_policy_violation", "input")
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.call(lambda c: c.chat.completions.create(messages=[{"role": "user", "content": CUT}], **blocking))
    assert (caught.value.code, caught.value.param) == ("content_policy_violation", "messages")


async def test_a_completion_has_a_result_for_each_choice(sdk: Sdk) -> None:
    messages: Any = [{"role": "user", "content": CUT}]
    completion = await sdk.call(lambda c: c.chat.completions.create(messages=messages, n=2, **ASKED))
    moderation = completion.moderation
    assert [result.flagged for result in moderation.input.results] == [False]
    assert [result.flagged for result in moderation.output.results] == [True, True]
    assert [choice.finish_reason for choice in completion.choices] == ["content_filter", "content_filter"]


async def test_a_streamed_completion_has_them_in_a_chunk_of_their_own(sdk: Sdk) -> None:
    asked: Any = {**ASKED, "messages": [{"role": "user", "content": TEXT}], "stream_options": {"include_usage": True}}
    chunks = await sdk.all(lambda c: c.chat.completions.create(stream=True, **asked))
    *said, judged, counted = chunks
    assert not any(chunk.moderation for chunk in [*said, counted])
    assert (judged.choices, counted.choices) == ([], [])
    assert judged.moderation.output.results[0].flagged is False and judged.usage is None
    assert counted.usage.total_tokens > 0
    _, completion = await sdk.helped(lambda c: c.chat.completions.stream(**asked), "get_final_completion")
    assert completion.choices[0].message.content == TEXT
