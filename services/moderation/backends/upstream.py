"""The Moderations API of another service: OpenAI's, or one that speaks like it (chatmesh's own does).

Texts leave this machine, as they were said: a policy that names this backend wants that. Neither they nor the key stand
in an error or a log.
"""

import asyncio
import logging
import math
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec

from services.moderation.backends.port import BackendError, Excerpt, Judgement
from services.moderation.policy import UpstreamSpec
from services.moderation.policy.backend_specs import MAX_TIMEOUT_S
from shared.errors import SettingsError
from shared.records import MODERATION_CATEGORIES

log = logging.getLogger(__name__)

BATCH = 32
MAX_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.1
_HUNG_S = 2 * MAX_TIMEOUT_S
"""Of a connection that nobody waits for any more."""
_MAX_ANSWER_BYTES = 4 << 20
_PASSING = frozenset({408, 409, 429, 500, 502, 503, 504, 529})


class _Result(msgspec.Struct):
    category_scores: dict[str, float]
    categories: dict[str, bool | None] = {}


class _Answer(msgspec.Struct):
    results: list[_Result]
    model: str = ""


class UpstreamBackend:
    """Implements `Backend`. `revision` is the model that the policy names; who answers by another name is logged.

    A call tries at most MAX_ATTEMPTS times, over connections that stay open. Its time is the caller's to keep.
    """

    def __init__(self, name: str, spec: UpstreamSpec) -> None:
        """Connects to nothing."""
        self.name = name
        self.revision = spec.model
        self.categories = frozenset(MODERATION_CATEGORIES)
        self.batch = BATCH
        self._spec = spec
        self._client: httpx.AsyncClient | None = None
        self._answered_by = spec.model

    async def start(self) -> None:
        """Raises SettingsError without the key that the policy speaks of. The service itself may come up later."""
        headers = {"content-type": "application/json"}
        if self._spec.api_key_env is not None:
            headers["authorization"] = f"Bearer {self._key(self._spec.api_key_env)}"
        limits = httpx.Limits(max_connections=BATCH, max_keepalive_connections=8, keepalive_expiry=60)
        self._client = httpx.AsyncClient(headers=headers, timeout=_HUNG_S, limits=limits)

    async def judge(self, excerpts: Sequence[Excerpt]) -> list[Judgement]:
        """Raises BackendError."""
        texts = [excerpt.raw for excerpt in excerpts if excerpt.raw.strip()]  # OpenAI's refuses an empty one
        results = iter(await self._results(texts) if texts else [])
        return [self._judgement(next(results)) if excerpt.raw.strip() else Judgement() for excerpt in excerpts]

    async def stop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _key(self, variable: str) -> str:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise SettingsError(f"backend {self.name} (upstream) needs its key in {variable}, which is not set")
        if not key.isascii() or not key.isprintable():
            raise SettingsError(f"backend {self.name} (upstream): {variable} holds characters that no header can carry")
        return key

    async def _results(self, texts: list[str]) -> list[_Result]:
        """One per text, in order. Raises BackendError."""
        body = msgspec.json.encode({"model": self._spec.model, "input": texts})
        answer = self._answer(await self._attempts(body))
        if len(answer.results) != len(texts):
            raise BackendError(f"{self.name}: {len(answer.results)} results came for {len(texts)} texts")
        self._note(answer.model)
        return answer.results

    def _note(self, model: str) -> None:
        if model and model != self._answered_by:
            log.info("backend %s: %s answers for %s", self.name, model, self._spec.model)
            self._answered_by = model

    async def _attempts(self, body: bytes) -> bytes:
        """The bytes of a good answer. Raises BackendError."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(body)
            except _PassingError as error:
                if attempt == MAX_ATTEMPTS:
                    raise BackendError(f"{self.name}: {error}, {attempt} times") from error.__cause__
                asked_s = error.retry_after_s
                if asked_s is not None and asked_s >= self._spec.timeout_s:
                    raise BackendError(f"{self.name}: {error}, and it asks for {asked_s:g} s") from error.__cause__
                await asyncio.sleep(asked_s or _FIRST_PAUSE_S * 2 ** (attempt - 1) * (0.5 + random.random()))

    async def _attempt(self, body: bytes) -> bytes:
        """Raises _PassingError if another attempt may go better, BackendError else."""
        if self._client is None:
            raise BackendError(f"{self.name} was not started")
        try:
            async with self._client.stream("POST", f"{self._spec.base_url}/moderations", content=body) as response:
                content = await _bounded(response)
        except httpx.HTTPError as error:
            # Its message names the address at most; the kind says the rest.
            raise _PassingError(f"{type(error).__name__}: {error}") from error
        if response.status_code in _PASSING:
            raise _PassingError(f"status {response.status_code}", _retry_after_s(response.headers))
        if response.status_code != httpx.codes.OK:
            raise BackendError(f"{self.name}: status {response.status_code}")
        if len(content) > _MAX_ANSWER_BYTES:
            raise BackendError(f"{self.name}: the answer is longer than {_MAX_ANSWER_BYTES:,} bytes")
        return content

    def _answer(self, content: bytes) -> _Answer:
        try:
            return msgspec.json.decode(content, type=_Answer)
        except msgspec.MsgspecError as error:  # says where and of what type, never the value
            raise BackendError(f"{self.name}: the answer is none of a Moderations API: {error}") from error

    def _judgement(self, result: _Result) -> Judgement:
        """OpenAI's categories alone: a policy has no others' meaning. Raises BackendError for scores outside [0, 1]."""
        scores = {name: score for name, score in result.category_scores.items() if name in self.categories}
        if wrong := sorted(name for name, score in scores.items() if not (math.isfinite(score) and 0 <= score <= 1)):
            raise BackendError(f"{self.name}: the scores of {', '.join(wrong)} lie outside [0, 1]")
        flagged = frozenset(name for name, flag in result.categories.items() if flag and name in self.categories)
        return Judgement(scores, flagged=flagged)


class _PassingError(Exception):
    """An attempt that failed in a way that may pass."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


async def _bounded(response: httpx.Response) -> bytes:
    """The body, or as much of it as shows that it is too long."""
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > _MAX_ANSWER_BYTES:
            break
    return bytes(content)


def _retry_after_s(headers: Mapping[str, Any]) -> float | None:
    """What the service asks for, in milliseconds (OpenAI's) or seconds; a date counts as nothing said."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = str(headers.get(name, ""))
        if value.replace(".", "", 1).isdecimal():  # a superscript two is a digit, and no number
            return float(value) * unit_s
    return None
