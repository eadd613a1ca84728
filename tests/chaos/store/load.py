"""Clients of conversations and chains: they say, add and erase, and note what they were told."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from tests.chaos.store.notes import Added, Erased, Line, Notes, Story

MODEL = "SmolLM2-135M-Instruct"
CONCURRENT = 16
TURNS_A_STORY = 12
GIVE_UP_S = 60.0
RETRY_S = 0.2
_NO_ANSWER = 503


@dataclass
class Load:
    """Keeps clients busy at one gateway until `responses` have been asked for. The engine says back what it is told."""

    url: str
    responses: int
    rng: random.Random
    notes: Notes = field(default_factory=Notes)
    _texts: "count[int]" = field(default_factory=count)
    _asked: int = 0

    async def run(self) -> Notes:
        """Until everybody is done."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=GIVE_UP_S, limits=limits, trust_env=False) as http:
            self._http = http
            async with asyncio.TaskGroup() as group:
                for number in range(CONCURRENT):
                    group.create_task(self._client(self._chain if number % 4 == 0 else self._conversation))
        return self.notes

    async def _client(self, chat: Callable[[], Awaitable[None]]) -> None:
        while self._asked < self.responses:
            await chat()

    def _text(self) -> str:
        return f"line {next(self._texts)} of all that is said, and said again"

    # -- chains --------------------------------------------------------------------------------------------------------

    async def _chain(self) -> None:
        """Turns by `previous_response_id`; some are not stored, which ends the chain, some are erased in the end."""
        parent: str | None = None
        told: list[str] = []
        for _ in range(TURNS_A_STORY):
            store = self.rng.random() > 0.1
            answer = await self._turn(previous_response_id=parent, store=store)
            parent = str(answer["id"]) if answer is not None and store else None
            if parent is not None:
                told.append(parent)
        for response_id in self.rng.sample(told, k=len(told) // 4):
            await self._erase_response(response_id)

    # -- conversations -------------------------------------------------------------------------------------------------

    async def _conversation(self) -> None:
        first = self._text()
        began_ms = _now_ms()
        made = await self._until_done("POST", "/conversations", {"items": [_user(first)]})
        if made is None:
            return
        story = Story(str(made["id"]), [Added([("user", first)], began_ms, _now_ms())])
        self.notes.stories.append(story)
        steps = [self._say, self._say, self._say_twice, self._add, self._erase_an_item, self._say_and_erase]
        weights = [8, 2, 2, 1.5, 1, 1]
        for step in self.rng.choices(steps, weights, k=TURNS_A_STORY):
            await step(story)
        if self.rng.random() < 0.3:
            await self._delete(story)

    async def _say(self, story: Story) -> str | None:
        answer = await self._turn(conversation=story.id, store=self.rng.random() > 0.15)
        return None if answer is None else str(answer["id"])

    async def _say_twice(self, story: Story) -> None:
        """Two at once: one has to wait for the other."""
        await asyncio.gather(self._say(story), self._say(story))

    async def _say_and_erase(self, story: Story) -> None:
        text = self._text()
        answer = await self._turn(text, conversation=story.id)
        if answer is not None:
            began_ms = _now_ms()
            await self._erase_response(str(answer["id"]))
            lines = frozenset({("user", text), ("assistant", text)})
            story.erased.append(Erased(lines, began_ms, _now_ms()))

    async def _add(self, story: Story) -> None:
        lines: list[Line] = [("user", self._text()) for _ in range(self.rng.randint(1, 3))]
        began_ms = _now_ms()
        body = {"items": [_user(text) for _, text in lines]}
        answer = await self._call("POST", f"/conversations/{story.id}/items", body)
        if answer.status_code == 200:
            story.added.append(Added(lines, began_ms, _now_ms()))
        elif answer.status_code == _NO_ANSWER:
            self.notes.retried += 1
            story.added.append(Added(lines, began_ms, None))
        elif not self._was_locked(answer):
            self._odd(f"items of {story.id}", answer)

    async def _erase_an_item(self, story: Story) -> None:
        listed = await self._until_done("GET", f"/conversations/{story.id}/items?limit=10", None)
        if not listed or not listed["data"]:
            return
        item = self.rng.choice(listed["data"])
        began_ms = _now_ms()
        await self._until_done("DELETE", f"/conversations/{story.id}/items/{item['id']}", None)
        line = (str(item["role"]), "".join(part["text"] for part in item["content"]))
        story.erased.append(Erased(frozenset({line}), began_ms, _now_ms()))

    async def _delete(self, story: Story) -> None:
        """Half of the time while a response runs in it."""
        running = (
            asyncio.create_task(self._turn(conversation=story.id, going=True)) if self.rng.random() < 0.5 else None
        )
        if running is not None:
            await asyncio.sleep(self.rng.uniform(0.0, 0.3))
        await self._until_done("DELETE", f"/conversations/{story.id}", None)
        story.deleted = True
        if running is not None:
            await running

    async def _erase_response(self, response_id: str) -> None:
        await self._until_done("DELETE", f"/responses/{response_id}", None)
        self.notes.erased_responses.add(response_id)

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def _turn(self, text: str | None = None, *, going: bool = False, **fields: Any) -> dict[str, Any] | None:
        """A response to its end, each try with a text of its own; a `text` that is given is tried once. None where it
        was locked out or not answered, or where the conversation is `going` away under it."""
        wanted = {name: value for name, value in fields.items() if value is not None}
        started_s = time.monotonic()
        while time.monotonic() - started_s < GIVE_UP_S:
            self._asked += 1
            said = text if text is not None else self._text()
            answer = await self._call("POST", "/responses", {"model": MODEL, "input": said, **wanted})
            if answer.status_code == 200:
                self.notes.ended += 1
                self.notes.waits_s.append(time.monotonic() - started_s)
                found: dict[str, Any] = answer.json()
                return found
            if self._was_locked(answer) or (going and answer.status_code == 404):
                return None
            if answer.status_code != _NO_ANSWER:
                self._odd(f"a turn with {wanted}", answer)
                return None
            self.notes.retried += 1
            if text is not None:
                return None
            await asyncio.sleep(RETRY_S)
        self.notes.odd.append(f"no answer to a turn with {wanted} within {GIVE_UP_S:g} s")
        return None

    async def _until_done(self, method: str, path: str, body: Any) -> dict[str, Any] | None:
        """The answer of a call that may be repeated; None where a try before, or another client, has done it."""
        tries = 0
        started_s = time.monotonic()
        while time.monotonic() - started_s < GIVE_UP_S:
            answer = await self._call(method, path, body)
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
            if answer.status_code == 404 and method == "DELETE" and tries:
                return None
            if answer.status_code != _NO_ANSWER:
                self._odd(f"{method} {path}", answer)
                return None
            tries += 1
            self.notes.retried += 1
            await asyncio.sleep(RETRY_S)
        self.notes.odd.append(f"no answer to {method} {path} within {GIVE_UP_S:g} s")
        return None

    async def _call(self, method: str, path: str, body: Any) -> httpx.Response:
        return await self._http.request(method, path.removeprefix("/"), json=body)

    def _was_locked(self, answer: httpx.Response) -> bool:
        locked = answer.status_code == 400 and answer.json()["error"]["code"] == "conversation_locked"
        self.notes.locked += locked
        return locked

    def _odd(self, what: str, answer: httpx.Response) -> None:
        self.notes.odd.append(f"{what}: {answer.status_code} {answer.text[:300]}")


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _now_ms() -> float:
    return time.time() * 1000
