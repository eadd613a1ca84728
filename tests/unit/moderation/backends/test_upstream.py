"""The Moderations API of another service, over a real connection."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from services.moderation.backends.building import build_backend
from services.moderation.backends.port import Backend, BackendError
from services.moderation.backends.upstream import MAX_ATTEMPTS, UpstreamBackend
from services.moderation.judging import Batcher
from services.moderation.policy import UpstreamSpec
from shared.errors import SettingsError
from shared.records import MODERATION_CATEGORIES
from tests.unit.moderation.backends.contract import BackendContract, Started, excerpt, excerpts
from tests.unit.moderation.backends.http_service import Answer, Reply, Request, Service, serving

KEY = "sk-very-secret-0123456789"
TEXT = "a text that nobody else shall read"


def moderations(request: Request) -> Reply:
    """Scores that follow from the length of each text."""
    results = [result(len(text) % 10 / 10) for text in request.json["input"]]
    return Reply(body=json.dumps({"id": "modr-1", "model": "omni-2024-09-26", "results": results}).encode())


def result(score: float) -> dict[str, Any]:
    return {
        "flagged": score >= 0.5,
        "categories": dict.fromkeys(MODERATION_CATEGORIES, score >= 0.5),
        "category_scores": dict.fromkeys(MODERATION_CATEGORIES, score),
    }


def spec(service: Service, **changes: object) -> UpstreamSpec:
    return UpstreamSpec.model_validate({"kind": "upstream", "base_url": service.url, "timeout_s": 5.0, **changes})


@asynccontextmanager
async def asking(answer: Answer, **changes: object) -> AsyncIterator[tuple[UpstreamBackend, Service]]:
    async with serving(answer) as service:
        backend = build_backend("elsewhere", spec(service, **changes))
        assert isinstance(backend, UpstreamBackend)
        await backend.start()
        try:
            yield backend, service
        finally:
            await backend.stop()


@pytest_asyncio.fixture(scope="module")
async def subject() -> AsyncIterator[Backend]:
    async with asking(moderations) as (backend, _):
        yield backend


class TestContract(BackendContract):
    """Against a service that judges by length."""


async def test_it_asks_as_openai_s_api_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", f" {KEY}\n")
    async with asking(moderations, api_key_env="UPSTREAM_KEY", model="omni") as (backend, service):
        first, second = await backend.judge(excerpts(["four", "sixsix"]))
    (request,) = service.requests
    assert request.line == "POST /v1/moderations HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json == {"model": "omni", "input": ["four", "sixsix"]}
    assert first.scores == dict.fromkeys(MODERATION_CATEGORIES, 0.4)
    assert first.flagged == frozenset()
    assert second.flagged == frozenset(MODERATION_CATEGORIES)


async def test_the_revision_stays_and_who_answered_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with asking(moderations) as (backend, _):
        with caplog.at_level(logging.INFO, logger="services.moderation"):
            for _ in range(3):
                await backend.judge([excerpt("a")])
                assert backend.revision == "omni-moderation-latest"
    told = [record.getMessage() for record in caplog.records if record.name.startswith("services.moderation")]
    assert told == ["backend elsewhere: omni-2024-09-26 answers for omni-moderation-latest"]


async def test_nobody_is_asked_about_nothing() -> None:
    async with asking(moderations) as (backend, service):
        blank, four = await backend.judge(excerpts([" \n", "four"]))
        assert await backend.judge(excerpts(["", " "])) == [blank, blank]
    assert [request.json["input"] for request in service.requests] == [["four"]]
    assert (blank.scores, four.scores["hate"]) == ({}, 0.4)


async def test_connections_are_used_again() -> None:
    async with asking(moderations) as (backend, service):
        for _ in range(5):
            await backend.judge([excerpt("a")])
    assert (len(service.requests), service.connections) == (5, 1)


async def test_a_key_that_is_not_there_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", " "):
        monkeypatch.setenv("UPSTREAM_KEY", value)
        with pytest.raises(SettingsError, match="needs its key in UPSTREAM_KEY, which is not set"):
            async with asking(moderations, api_key_env="UPSTREAM_KEY"):
                pass
    monkeypatch.setenv("UPSTREAM_KEY", KEY + "\nx-other: header")
    with pytest.raises(SettingsError, match="UPSTREAM_KEY holds characters") as caught:
        async with asking(moderations, api_key_env="UPSTREAM_KEY"):
            pass
    assert KEY not in str(caught.value)


def failing_at_first(times: int, failure: Reply) -> Answer:
    left: Iterator[Reply] = iter([failure] * times)
    return lambda request: next(left, None) or moderations(request)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    answer = failing_at_first(MAX_ATTEMPTS - 1, Reply(status, b"busy", {"retry-after-ms": "1"}))
    async with asking(answer) as (backend, service):
        (judgement,) = await backend.judge([excerpt("four")])
    assert judgement.scores["hate"] == 0.4
    assert len(service.requests) == MAX_ATTEMPTS


async def test_a_broken_connection_is_tried_again() -> None:
    async with asking(failing_at_first(1, Reply(hang_up=True))) as (backend, service):
        await backend.judge([excerpt("four")])
    assert len(service.requests) == 2


@pytest.mark.parametrize("soon", ["²", "-", "1.2.3", "soon"])
async def test_attempts_are_counted(soon: str) -> None:
    """A header that says no time says nothing."""
    headers = {"retry-after-ms": soon, "retry-after": "0.001"}
    async with asking(lambda _: Reply(503, headers=headers)) as (backend, service):
        with pytest.raises(BackendError, match=f"elsewhere: status 503, {MAX_ATTEMPTS} times"):
            await backend.judge([excerpt(TEXT)])
    assert len(service.requests) == MAX_ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 403, 404, 301])
async def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    async with asking(lambda _: Reply(status, headers={"location": "/elsewhere"})) as (backend, service):
        with pytest.raises(BackendError, match=f"elsewhere: status {status}"):
            await backend.judge([excerpt(TEXT)])
    assert len(service.requests) == 1


async def test_a_slow_answer_is_the_caller_s_to_give_up() -> None:
    """So that it is told as late, never as failed."""
    async with asking(lambda _: Reply(after_s=30), timeout_s=0.1) as (backend, _):
        answer = await Batcher(Started(backend), 0.1).ask(excerpt(TEXT))
    assert (answer.judgement, answer.report.status) == (None, "late")


async def test_who_asks_for_more_time_than_there_is_gets_no_other_attempt() -> None:
    async with asking(lambda _: Reply(429, headers={"retry-after": "3600"})) as (backend, service):
        with pytest.raises(BackendError, match="elsewhere: status 429, and it asks for 3600 s"):
            await backend.judge([excerpt(TEXT)])
    assert len(service.requests) == 1


async def test_nobody_there_is_a_failure() -> None:
    async with serving(moderations) as service:
        given = spec(service, timeout_s=2.0)
    backend = build_backend("elsewhere", given)
    await backend.start()
    with pytest.raises(BackendError, match=f"elsewhere: ConnectError.*, {MAX_ATTEMPTS} times"):
        await backend.judge([excerpt(TEXT)])
    await backend.stop()


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"<html>", "none of a Moderations API"),
        (b'{"results": 7}', "none of a Moderations API"),
        (b'{"results": [{"flagged": true}]}', "none of a Moderations API"),
        (b'{"results": [{"category_scores": {"hate": "high"}}]}', "none of a Moderations API"),
        (b'{"results": []}', "0 results came for 1 texts"),
        (b'{"results": [{"category_scores": {"hate": NaN}}]}', "none of a Moderations API"),
        (b'{"results": [{"category_scores": {"hate": 7}}]}', "the scores of hate lie outside"),
        (b'{"results": [{"category_scores": {"hate": -0.1, "sexual": 2}}]}', "the scores of hate, sexual lie outside"),
        (b" " * (5 << 20), "longer than 4,194,304 bytes"),
    ],
)
async def test_an_answer_that_is_none_is_a_failure(body: bytes, complaint: str) -> None:
    async with asking(lambda _: Reply(body=body)) as (backend, service):
        with pytest.raises(BackendError, match=f"elsewhere: .*{complaint}"):
            await backend.judge([excerpt(TEXT)])
    assert len(service.requests) == 1


async def test_other_categories_are_left_out_and_missing_ones_are_missing() -> None:
    body = {"results": [{"category_scores": {"hate": 0.2, "bad-vibes": 1.0}, "categories": {"bad-vibes": True}}]}
    async with asking(lambda _: Reply(body=json.dumps(body).encode())) as (backend, _):
        (judgement,) = await backend.judge([excerpt("a")])
    assert (judgement.scores, judgement.flagged) == ({"hate": 0.2}, frozenset())


async def test_neither_text_nor_key_is_told_to_anybody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", KEY)
    echo = json.dumps({"error": {"message": f"{TEXT} {KEY}"}}).encode()
    answers = iter([Reply(400, echo), Reply(200, echo), Reply(503, echo, {"retry-after-ms": "1"}), Reply(hang_up=True)])
    last = Reply(500, echo, {"retry-after-ms": "1"})
    errors = []
    with caplog.at_level(logging.DEBUG):
        async with asking(lambda _: next(answers, last), api_key_env="UPSTREAM_KEY") as (backend, _):
            for _ in range(4):
                with pytest.raises(BackendError) as caught:
                    await backend.judge([excerpt(TEXT)])
                errors.append(repr(caught.value) + repr(caught.value.__cause__))
    for told in (*errors, caplog.text, repr(backend), repr(vars(backend))):
        assert TEXT not in told
        assert KEY not in told


async def test_a_cancelled_call_does_not_hold_a_connection() -> None:
    """More cancelled calls than there may be connections."""
    hang = [True]
    async with asking(lambda r: Reply(after_s=30) if hang[0] else moderations(r), timeout_s=60.0) as (backend, service):
        for _ in range(40):
            call = asyncio.create_task(backend.judge([excerpt("a")]))
            known = len(service.requests)
            while len(service.requests) == known:
                await asyncio.sleep(0.001)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        hang[0] = False
        async with asyncio.timeout(5):
            assert len(await backend.judge([excerpt("a")])) == 1
