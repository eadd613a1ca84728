"""What clients read of a judgement: the SDK's shapes, from the log alone."""

import json
from typing import Any

import msgspec
import pytest
from openai.types import ModerationCreateResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from services.gateway.api import chat_replies, replies
from services.gateway.projections import ResponsesProjection
from services.gateway.projections.chat import ChatFrames, completion_object
from services.gateway.projections.moderation import moderation_object
from shared.ids import parse_response_id
from shared.records import (
    MODERATION_CATEGORIES,
    Accepted,
    AnyTerminal,
    Cancelled,
    Completed,
    Failed,
    Incomplete,
    ModerationResult,
    ModerationWish,
)
from tests.unit.gateway.logs import Log

POLICY = "default-2@3fa9c1d2"
CLEAN = ModerationResult(policy=POLICY, scores={"hate": 0.01}, sources={"hate": "model", "illicit": "rules"})
HATEFUL = ModerationResult(
    policy=POLICY,
    scores={"hate": 0.93, "secrets": 1.0},
    flagged=["hate", "secrets"],
    sources={"hate": "model", "secrets": "rules"},
)


def judged(accepted: Accepted, input_: ModerationResult | None = CLEAN) -> Accepted:
    spec = msgspec.structs.replace(accepted.spec, moderation=ModerationWish(model="omni-moderation-latest"))
    return msgspec.structs.replace(accepted, spec=spec, moderation=input_)


def ended(log: Log, kind: type[Any] = Completed, output: ModerationResult | None = HATEFUL, **more: Any) -> AnyTerminal:
    terminal: AnyTerminal = msgspec.structs.replace(log.terminal(kind, "Hi", **more), moderation=output)
    return terminal


def test_the_reply_of_the_endpoint_is_the_sdk_s() -> None:
    found = moderation_object("modr_" + "0" * 32, [CLEAN, HATEFUL])
    replies.Moderations.model_validate(found)
    parsed = ModerationCreateResponse.model_validate(found, strict=True)
    clean, hateful = parsed.results
    assert (parsed.model, clean.flagged, hateful.flagged) == (POLICY, False, True)
    assert hateful.categories.hate and not hateful.categories.hate_threatening
    assert (clean.category_scores.hate, hateful.category_scores.hate) == (0.01, 0.93)
    for result in found["results"]:
        for keys in ("categories", "category_scores", "category_applied_input_types", "category_sources"):
            assert tuple(result[keys]) == MODERATION_CATEGORIES
    assert clean.category_applied_input_types.hate == clean.category_applied_input_types.illicit == ["text"]
    assert clean.category_applied_input_types.sexual == [], "nothing here looks for it"
    assert found["results"][0]["category_sources"] == {
        **dict.fromkeys(MODERATION_CATEGORIES, "none"), "hate": "model", "illicit": "rules"
    }  # fmt: skip


def test_a_category_of_the_operator_s_own_flags_nothing_that_clients_see() -> None:
    own = ModerationResult(policy=POLICY, scores={"secrets": 1.0}, flagged=["secrets"], sources={"secrets": "rules"})
    (result,) = moderation_object("modr_1", [own])["results"]
    assert result["flagged"] is False
    assert "secrets" not in json.dumps(result)


ENDS: list[tuple[type[Any], dict[str, Any]]] = [
    (Completed, {}),
    (Incomplete, {"reason": "content_filter"}),
    (Cancelled, {}),
    (Failed, {"code": "server_error", "message": "boom"}),
]


@pytest.mark.parametrize(("kind", "fields"), ENDS)
def test_a_response_tells_both_parts_once_it_has_ended(log: Log, kind: type[Any], fields: dict[str, Any]) -> None:
    projection = ResponsesProjection(parse_response_id(log.id.text))
    records = [judged(log.accepted()), log.delta(0, "Hi"), ended(log, kind, **fields)]
    events = [json.loads(event.json) for record in records for event in projection.feed(record)]
    responses = [event["response"] for event in events if "response" in event]
    assert [response["moderation"] for response in responses[:-1]] == [None, None]
    replies.Response.model_validate(responses[-1])
    moderation = Response.model_validate(responses[-1], strict=True).moderation
    assert moderation is not None
    assert moderation.input.type == moderation.output.type == "moderation_result"
    assert (moderation.input.flagged, moderation.output.flagged) == (False, True)
    assert moderation.output.model == POLICY
    assert set(moderation.output.category_scores) == set(MODERATION_CATEGORIES)


def test_who_did_not_ask_is_told_nothing(log: Log) -> None:
    accepted = msgspec.structs.replace(log.accepted(), moderation=CLEAN)
    projection = ResponsesProjection(parse_response_id(log.id.text))
    projection.feed(accepted)
    projection.feed(ended(log))
    found = projection.response()
    assert found is not None and found["moderation"] is None
    assert "moderation" not in completion_object([(accepted, ended(log))])


def test_a_part_that_nobody_judged_is_an_error_in_the_sdk_s_shape(log: Log) -> None:
    projection = ResponsesProjection(parse_response_id(log.id.text))
    projection.feed(judged(log.accepted(), None))
    projection.feed(ended(log, Failed, None, code="server_error", message="boom"))
    found = projection.response()
    replies.Response.model_validate(found)
    moderation = Response.model_validate(found, strict=True).moderation
    assert moderation is not None
    assert moderation.input.type == moderation.output.type == "error"
    assert moderation.output.code == "moderation_unavailable"


def test_a_completion_has_one_result_for_the_prompt_and_one_per_choice(log: Log) -> None:
    accepted = judged(log.accepted())
    choices = [(accepted, ended(log)), (accepted, ended(log, output=CLEAN))]
    found = completion_object(choices)
    chat_replies.ChatCompletion.model_validate(found)
    moderation = ChatCompletion.model_validate(found, strict=True).moderation
    assert moderation is not None and moderation.input.type == moderation.output.type == "moderation_results"
    assert [result.flagged for result in moderation.input.results] == [False]
    assert [result.flagged for result in moderation.output.results] == [True, False]


def test_a_choice_without_a_result_makes_the_output_an_error(log: Log) -> None:
    accepted = judged(log.accepted())
    found = completion_object([(accepted, ended(log)), (accepted, ended(log, output=None))])
    assert found["moderation"]["input"]["type"] == "moderation_results"
    assert found["moderation"]["output"]["type"] == "error"


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_of_chunks_ends_with_one_of_moderation_before_the_usage(log: Log, include_usage: bool) -> None:
    accepted = judged(log.accepted())
    *chunks, done = ChatFrames(accepted, include_usage=include_usage).end([(accepted, ended(log))])
    parsed = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]
    first = ChatCompletionChunk.model_validate(parsed[0], strict=True)
    assert first.choices == [] and first.moderation is not None
    assert first.moderation.output.type == "moderation_results"
    assert [set(chunk) & {"usage", "moderation"} for chunk in parsed] == (
        [{"usage", "moderation"}, {"usage"}] if include_usage else [{"moderation"}]
    )
    assert first.usage is None
    assert done == b"data: [DONE]\n\n"
