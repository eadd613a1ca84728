"""Streams over HTTP: server-sent events, raw, one connection per stream, the same for every server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.bench.workload import Sample


class BenchError(Exception):
    """A system did not do what the bench asked of it."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one event brought; `tokens` is the answer's whole length, on the event that tells it, `id` the answer's."""

    text: str = ""
    tokens: int | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server is asked for a greedy stream, and how its events are read."""

    path: str
    body: Callable[[str, int], dict[str, Any]]
    read: Callable[[dict[str, Any]], Said]


def responses_api(model: str) -> Dialect:
    """`POST /v1/responses`."""

    def body(prompt: str, max_tokens: int) -> dict[str, Any]:
        return {
            "model": model,
            "input": prompt,
            "stream": True,
            "temperature": 0,
            "max_output_tokens": max_tokens,
            "store": False,
        }

    def read(event: dict[str, Any]) -> Said:
        if event["type"] == "response.output_text.delta":
            return Said(event["delta"])
        if event["type"] in ("response.completed", "response.incomplete"):
            return Said(tokens=event["response"]["usage"]["output_tokens"], id=event["response"]["id"])
        if event["type"] in ("response.failed", "error"):
            raise BenchError(f"the mesh failed: {event}")
        return Said()

    return Dialect("/responses", body, read)


def chat_completions_api(model: str) -> Dialect:
    """`POST /v1/chat/completions`."""

    def body(prompt: str, max_tokens: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return {"model": model, "messages": messages, "stream": True, "temperature": 0, "max_tokens": max_tokens}

    def read(event: dict[str, Any]) -> Said:
        if "error" in event:
            raise BenchError(f"the server failed: {event['error']}")
        usage = event.get("usage")
        text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        return Said(text, usage["completion_tokens"] if usage else None)

    return Dialect("/chat/completions", body, read)


class HttpLoad:
    """Runs streams against one base URL."""

    def __init__(self, base_url: str, dialect: Dialect, max_tokens: int, timeout_s: float = 300.0) -> None:
        self._dialect = dialect
        self._max_tokens = max_tokens
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(base_url=base_url, timeout=timeout_s, limits=limits)

    async def close(self) -> None:
        await self._client.aclose()

    async def measure(self, prompts: Sequence[str]) -> list[Sample]:
        """All prompts at once. Raises BenchError."""
        return list(await asyncio.gather(*(self._one(prompt) for prompt in prompts)))

    async def _one(self, prompt: str) -> Sample:
        sent_s, sent_unix_s = time.perf_counter(), time.time()
        times: list[float] = []
        characters, tokens, identity = 0, 0, ""
        request = self._client.stream("POST", self._dialect.path, json=self._dialect.body(prompt, self._max_tokens))
        async with request as answer:
            if answer.status_code != 200:
                raise BenchError(f"status {answer.status_code}: {(await answer.aread()).decode()[:500]}")
            async for arrived_s, event in _events(answer):
                said = self._dialect.read(event)
                if said.text:
                    times.append(arrived_s)
                    characters += len(said.text)
                tokens = said.tokens or tokens
                identity = said.id or identity
        if not times or not tokens:
            raise BenchError(f"a stream without text or without usage: {len(times)} pieces, {tokens} tokens")
        return Sample(sent_s, times[0], times[-1], tokens, len(times), characters, identity, sent_unix_s)


async def _events(answer: httpx.Response) -> AsyncIterator[tuple[float, dict[str, Any]]]:
    """The JSON of each `data:` line, with the time at which its chunk came."""
    rest = b""
    async for chunk in answer.aiter_raw():
        arrived_s = time.perf_counter()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                yield arrived_s, json.loads(line.removeprefix(b"data: "))
