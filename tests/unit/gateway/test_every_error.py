"""Every error of the HTTP surface: all four keys, a message that says what to do, and the headers that belong to it."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from services.gateway.ledger import RateLimits
from services.gateway.ledger.limits import Limits
from shared.errors import AppendError
from shared.records import Failed, Rejected
from tests.unit.gateway.harness import MODEL, Mesh, gateway, say

ASK = {"model": MODEL, "input": "Say hello"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello"}]}
NO_CONVERSATION = "conv_01a1fdc4690670018e8a2c8c65ddcda7"
NOWHERE = "resp_01a1fdc469067001b7e8a2c8c65ddcda"


@dataclass(frozen=True)
class Wrong:
    """A request, and what must come of it: status, a word of the message, headers."""

    status: int
    word: str
    method: str = "POST"
    path: str = "/responses"
    body: Any = field(default_factory=lambda: ASK)
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    key: str | None = "sk-a"
    told: tuple[str, ...] = ()
    setting: dict[str, Any] = field(default_factory=dict)
    limits: RateLimits | None = None
    script: Callable[..., Any] | None = None
    before: int = 0


def refusing(_: Mesh, __: Any) -> list[Any]:
    raise AppendError("away")


def unknown(query: Any) -> Rejected:
    """What history says of a response that it has not."""
    return Rejected(gateway="gateway-1", correlation_id=query.correlation_id, status=404, code="", message="")


LIMITED = RateLimits({"default": Limits(1, None)})
SMALL = RateLimits({"default": Limits(None, 5)})
FAILED = say("Half", kind=Failed, code="server_error", message="no worker could finish it")
AGAIN = ("retry-after", "retry-after-ms")

TABLE = [
    Wrong(400, "JSON", raw=b"{"),
    Wrong(400, "object", raw=b"[]"),
    Wrong(400, "Missing required parameter", body={"model": MODEL}),
    Wrong(400, "Unknown parameter: 'nonsense'", body={**ASK, "nonsense": 1}),
    Wrong(400, "tokens", body={**ASK, "input": "word " * 70}),
    Wrong(400, "Idempotency-Key", headers={"idempotency-key": "x" * 256}),
    Wrong(400, "Client-Request-Id", headers={"x-client-request-id": "x" * 513}),
    Wrong(400, "messages", path="/chat/completions", body={"model": MODEL}),
    Wrong(400, "starting_after", "GET", f"/responses/{NOWHERE}?stream=true&starting_after=x", body=None),
    Wrong(401, "API key", key=None, told=("www-authenticate",)),
    Wrong(401, "Incorrect", key="sk-wrong", told=("www-authenticate",)),
    Wrong(401, "API key", "GET", "/models", body=None, key=None, told=("www-authenticate",)),
    Wrong(401, "API key", path="/chat/completions", body=CHAT, key=None, told=("www-authenticate",)),
    Wrong(404, "not served here", "GET", "/nothing", body=None),
    Wrong(404, "not served here", path="/responses/"),
    Wrong(404, "not found", "GET", f"/responses/{NOWHERE}", body=None),
    Wrong(404, "not found", "GET", "/responses/nonsense", body=None),
    Wrong(404, "not found", "DELETE", f"/responses/{NOWHERE}", body=None),
    Wrong(404, "not found", path=f"/responses/{NOWHERE}/cancel", body=None),
    Wrong(400, "at most 20", path="/conversations", body={"items": [{"role": "user", "content": "x"}] * 21}),
    Wrong(401, "API key", path="/conversations", body={}, key=None, told=("www-authenticate",)),
    Wrong(404, "not found", "GET", f"/conversations/{NO_CONVERSATION}", body=None),
    Wrong(404, "not found", "DELETE", f"/conversations/{NO_CONVERSATION}/items/msg_1", body=None),
    Wrong(405, "not served here", "PUT", f"/conversations/{NO_CONVERSATION}/items", told=("allow",)),
    Wrong(400, "only text is judged", path="/moderations", body={"input": [{"type": "image_url"}]}),
    Wrong(400, "at most 64", path="/moderations", body={"input": ["x"] * 65}),
    Wrong(401, "API key", path="/moderations", body={"input": "x"}, key=None, told=("www-authenticate",)),
    Wrong(404, "omni-moderation-latest", path="/moderations", body={"input": "x", "model": "gpt-9"}),
    Wrong(404, "omni-moderation-latest", body={**ASK, "moderation": {"model": "gpt-9"}}),
    Wrong(405, "not served here", "GET", "/moderations", body=None, told=("allow",)),
    Wrong(404, "does not exist", body={**ASK, "model": "gpt-9"}),
    Wrong(404, "does not exist", "GET", "/models/gpt-9", body=None),
    Wrong(405, "not served here", "PUT", "/responses", told=("allow",)),
    Wrong(405, "not served here", "GET", "/chat/completions", body=None, told=("allow",)),
    Wrong(413, "larger than 2,000 bytes", body={**ASK, "input": "x" * 3000}, setting={"body_limit_bytes": 2000}),
    Wrong(415, "'gzip'", raw=gzip.compress(b"{}"), headers={"content-encoding": "gzip"}, told=("accept-encoding",)),
    Wrong(422, "Use a new key", body={**ASK, "input": "Other"}, headers={"idempotency-key": "k"}, before=1),
    Wrong(429, "try again in", limits=LIMITED, before=1, told=AGAIN),
    Wrong(429, "try again in", path="/chat/completions", body=CHAT, limits=LIMITED, before=1, told=AGAIN),
    Wrong(429, "max_output_tokens", limits=SMALL, told=("x-should-retry",)),
    Wrong(500, "no worker", script=FAILED),
    Wrong(500, "no worker", path="/chat/completions", body=CHAT, script=FAILED),
    Wrong(500, "deadline", script=lambda *_: [], setting={"deadline_s": 0.05}),
    Wrong(503, "Try again", script=refusing, told=AGAIN),
    Wrong(
        503,
        "did not answer within 0.05 s",
        path="/moderations",
        body={"input": "x"},
        script=lambda *_: [],
        setting={"moderation_timeout_s": 0.05},
        told=AGAIN,
    ),
]


@pytest.mark.parametrize("wrong", TABLE, ids=lambda wrong: f"{wrong.status} {wrong.method} {wrong.word}")
async def test_every_error_is_whole(wrong: Wrong) -> None:
    mesh = Mesh(on_query=unknown) if wrong.script is None else Mesh(wrong.script)
    async with gateway(mesh, keys=True, limits=wrong.limits, **wrong.setting), httpx.AsyncClient(timeout=10) as http:
        headers = {**wrong.headers, **({} if wrong.key is None else {"authorization": f"Bearer {wrong.key}"})}
        for _ in range(wrong.before):
            assert (await http.post(f"{mesh.url}/responses", json=ASK, headers=headers)).status_code == 200
        body: dict[str, Any] = {"json": wrong.body} if wrong.raw is None else {"content": wrong.raw}
        answer = await http.request(wrong.method, f"{mesh.url}{wrong.path}", headers=headers, **body)
    assert answer.status_code == wrong.status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert wrong.word in error["message"]
    assert isinstance(error["type"], str)
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["content-type"] == "application/json"
    assert {"openai-version", "openai-processing-ms", *wrong.told} <= set(answer.headers)
    for name in AGAIN:
        assert (name in answer.headers) == (name in wrong.told), "only what passes by itself is worth another try"


def test_the_table_has_every_status() -> None:
    assert {wrong.status for wrong in TABLE} >= {400, 401, 404, 405, 413, 415, 422, 429, 500, 503}


async def test_a_clients_own_name_for_its_request_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway(Mesh()) as mesh, httpx.AsyncClient() as http:
        with caplog.at_level("INFO", "services.gateway.api.middleware"):
            answer = await http.post(f"{mesh.url}/responses", json=ASK, headers={"x-client-request-id": "mine-7"})
    ours = answer.headers["x-request-id"]
    assert f"{ours} is the client's 'mine-7'" in caplog.messages
    assert "mine-7" not in str(answer.headers)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", f"/responses/{NOWHERE}", "DELETE, GET, HEAD"),
        ("PUT", "/responses", "POST"),
        ("DELETE", "/models/a/b", "GET, HEAD"),
        ("GET", f"/responses/{NOWHERE}/cancel", "POST"),
    ],
)
async def test_a_405_names_every_method_of_its_path(method: str, path: str, allowed: str) -> None:
    async with gateway(Mesh()) as mesh, httpx.AsyncClient() as http:
        answer = await http.request(method, f"{mesh.url}{path}", headers={"authorization": "Bearer sk-a"})
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
