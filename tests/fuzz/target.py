"""What is attacked: a mesh of all services, two tenants, and what must hold of everything that it says."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shared.topics import Service
from tests.fuzz.memory import resident_bytes
from tests.fuzz.wire import Reply, line, request
from tests.support.mesh import Mesh

MODEL = "SmolLM2-135M-Instruct"
ALPHA, BETA = "sk-alpha-0b51", "sk-beta-77e2"
SECRET = "kestrel-4f9d1c"
"""Stands in every text of ALPHA's and in none of BETA's: whoever else sees it sees ALPHA's."""
KEYS = f"{ALPHA}: {{tenant: alpha}}\n{BETA}: {{tenant: beta}}\n"
REPLY_S = 20.0
"""How long an answer may take while the mesh is under attack on a busy machine."""
_CONVERSATIONS = 3
ENVELOPE = {"message", "type", "param", "code"}
_METHODS = frozenset({"GET", "POST", "DELETE"})
_ID = re.compile(rb"(?:resp_|chatcmpl-|msg_|conv_)[0-9a-f]{32}")
_TROUBLE = re.compile(r"\b(ERROR|CRITICAL)\b|^Traceback ", re.MULTILINE)


@dataclass
class Target:
    """The gateway's port and what was learned of the mesh so far."""

    mesh: Mesh
    inputs: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    ids: set[bytes] = field(default_factory=set)
    planted: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        """The gateway's."""
        port = self.mesh.of(Service.GATEWAY)[0].port
        assert port is not None
        return port

    def resident(self) -> dict[str, int]:
        """Every service's resident bytes."""
        return {replica.id: resident_bytes(replica.process.pid) for replica in self.mesh.replicas}

    def report(self) -> str:
        """What was sent and what came back."""
        return f"{self.inputs.total():,} inputs: {dict(self.inputs)}\nreplies: {dict(self.statuses.most_common())}"

    async def plant(self, count: int) -> None:
        """Give ALPHA responses and conversations, full of its secret, for others to look for."""
        for n in range(count):
            whole = {
                "model": MODEL,
                "input": f"{SECRET} is what nobody else may read, {n}",
                "instructions": f"{SECRET} instructs",
                "metadata": {SECRET: SECRET},
                "prompt_cache_key": SECRET,
                "user": SECRET,
                "max_output_tokens": 16,
            }
            reply = await self.ask("POST", "/v1/responses", whole, key=ALPHA)
            assert reply.status == 200, reply
            self.planted.append(json.loads(reply.body)["id"])
        for _ in range(_CONVERSATIONS):
            await self._plant_conversation()

    async def _plant_conversation(self) -> None:
        """A conversation with items that ALPHA added and such that a response brought."""
        said = {"role": "user", "content": f"{SECRET} in an item"}
        reply = await self.ask("POST", "/v1/conversations", {"metadata": {SECRET: SECRET}, "items": [said]}, key=ALPHA)
        assert reply.status == 200, reply
        conversation = json.loads(reply.body)["id"]
        turn = {"model": MODEL, "input": f"{SECRET} in a turn", "conversation": conversation, "max_output_tokens": 16}
        reply = await self.ask("POST", "/v1/responses", turn, key=ALPHA)
        assert reply.status == 200, reply
        listed = await self.ask("GET", f"/v1/conversations/{conversation}/items", key=ALPHA)
        self.planted += [conversation, *(item["id"] for item in json.loads(listed.body)["data"])]
        assert len(self.planted) >= 4, listed

    async def ask(self, method: str, path: str, body: Any = None, *, key: str = BETA) -> Reply:
        """A decent request and its reply, which is judged."""
        content = None if body is None else json.dumps(body).encode()
        headers = [("authorization", f"Bearer {key}"), ("content-type", "application/json")]
        async with line(self.port) as connection, within(f"the reply to {method} {path}"):
            raw = request(method, path, headers, content)
            await connection.send([raw])
            reply = await connection.reply()
        assert reply is not None, f"{method} {path}: the connection closed without a reply"
        self.judge(reply, raw, key)
        return reply

    def judge(self, reply: Reply, asked: bytes, key: str, *, head: bool = False) -> None:
        """What must hold of every HTTP reply."""
        method = asked.split(b" ", 1)[0].decode("latin-1")
        self.statuses[f"{method if method in _METHODS else '?'} {reply.status}"] += 1
        told = f"{reply.status} {reply.headers} {reply.body[:500]!r}\nto {asked[:2000]!r}"
        assert reply.status < 500, told
        assert reply.headers.get("x-request-id", "").startswith("req_"), f"no request id: {told}"
        if reply.status >= 400 and not head:
            assert reply.headers.get("content-type") == "application/json", f"an error that is no JSON: {told}"
            check_error(json.loads(reply.body).get("error"), told)
        self.judge_privacy(reply.body + repr(reply.headers).encode(), asked, key)

    def judge_privacy(self, received: bytes, asked: bytes, key: str) -> None:
        """ALPHA's texts are for ALPHA; its ids are for those who knew them."""
        if key == ALPHA:
            self.ids.update(found for found in _ID.findall(received) if found not in asked)
            return
        assert SECRET.encode() not in received, f"a leak: {received[:2000]!r}\nto {asked[:2000]!r}"
        strange = {i for i in _ID.findall(received) if i in self.ids and i not in asked}
        assert not strange, f"ids of another tenant: {strange}\nto {asked[:2000]!r}"

    def troubles(self) -> list[str]:
        """Lines of errors in the services' logs."""
        found = []
        for replica in self.mesh.replicas:
            text = replica.process.log_path.read_text(errors="replace")
            found += [f"{replica.id}: {text[hit.start() : hit.start() + 1000]}" for hit in _TROUBLE.finditer(text)]
        return found


def check_error(error: Any, told: str) -> None:
    """The envelope: all four keys, and a message for people."""
    assert isinstance(error, dict) and set(error) - {"headers"} == ENVELOPE, f"no envelope: {told}"
    assert isinstance(error["message"], str) and error["message"].strip(), f"no message: {told}"
    assert isinstance(error["type"], str) and error["type"], f"no type: {told}"


def check_events(events: Iterable[dict[str, Any]], told: str) -> None:
    """Events of one stream count from 0 without a gap, and the last one ends it."""
    seen = list(events)
    assert [event["sequence_number"] for event in seen] == list(range(len(seen))), told
    assert seen and seen[-1]["type"] in ENDS, f"the stream has no end: {told}"


ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class within:
    """`async with within("the reply to X")`: what does not come in REPLY_S is a hang, called by its name."""

    def __init__(self, what: str, bound_s: float = REPLY_S) -> None:
        self._what, self._bound_s = what, bound_s
        self._timeout = asyncio.timeout(bound_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await self._timeout.__aexit__(*raised)
        except TimeoutError as error:
            raise AssertionError(f"a hang: waited {self._bound_s:g} s for {self._what[:2000]}") from error
