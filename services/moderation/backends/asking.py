"""Prompts to an engine of inference, and its answers: a few tokens, greedily, with how likely they were."""

import asyncio
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.inference.engines.port import Engine, EngineError, GenerationRequest, StepOutput
from services.moderation.backends.answers import Token

LIKELIEST = 20
"""How many tokens are weighed at each place: the verdicts are among them, or hardly likely."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pending:
    answer: "asyncio.Future[list[Token]]"
    tokens: list[Token] = field(default_factory=list)


class Answers:
    """Asks an engine that is nobody else's. More prompts than it has slots wait for one; an engine whose loop died is
    revived by whoever asks next."""

    def __init__(self, engine: Engine, eos_ids: frozenset[int], max_tokens: int) -> None:
        self._engine = engine
        self._eos_ids = eos_ids
        self._max_tokens = max_tokens
        self._numbers = itertools.count()
        self._pending: dict[str, _Pending] = {}
        self._free = asyncio.Semaphore(engine.info.slots)
        self._reviving = asyncio.Lock()

    async def start(self) -> None:
        """Raises EngineError, ModelError."""
        await self._engine.start(self._on_outputs, lambda line: log.debug("%s", line))

    async def stop(self) -> None:
        """Who still waits for an answer gets EngineError."""
        await self._engine.close()

    async def to_all(self, prompts: Sequence[tuple[int, ...]]) -> list[list[Token]]:
        """The answers, in order. Raises EngineError; then, as when it is cancelled, no slot stays taken for long."""
        asking = [asyncio.create_task(self._to(prompt)) for prompt in prompts]
        try:
            return await asyncio.gather(*asking)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _to(self, prompt: tuple[int, ...]) -> list[Token]:
        # The slot is free again when the engine says so (`_on_outputs`), not when nobody waits for it any more.
        await self._free.acquire()
        request_id = f"guard-{next(self._numbers)}"
        pending = _Pending(asyncio.get_running_loop().create_future())
        try:
            await self._revive()
            self._engine.submit(self._request(request_id, prompt))
        except BaseException:
            self._free.release()
            raise
        self._pending[request_id] = pending
        try:
            return await pending.answer
        finally:
            self._engine.cancel(request_id)

    def _request(self, request_id: str, prompt: tuple[int, ...]) -> GenerationRequest:
        return GenerationRequest(
            request_id, prompt, self._max_tokens, self._eos_ids, temperature=0.0, logprobs=LIKELIEST
        )

    async def _revive(self) -> None:
        async with self._reviving:
            if not self._engine.alive:
                await self._engine.restart()

    def _on_outputs(self, outputs: list[StepOutput]) -> None:
        for output in outputs:
            pending = self._pending.get(output.request_id)
            if pending is None:
                continue
            pending.tokens += _tokens(output)
            if output.finish is not None:
                del self._pending[output.request_id]
                self._free.release()
                _settle(pending, output)


def _settle(pending: _Pending, last: StepOutput) -> None:
    if pending.answer.done():
        return  # nobody waits for it any more
    if last.finish in ("stop", "length"):
        pending.answer.set_result(pending.tokens)
    else:
        pending.answer.set_exception(EngineError(f"the engine gave no answer: {last.error or last.finish}"))


def _tokens(output: StepOutput) -> list[Token]:
    if not output.logprobs:
        return [Token(token_id) for token_id in output.ids]
    return [
        Token(token_id, tuple((other, math.exp(logprob)) for other, logprob in likelihood.top))
        for token_id, likelihood in zip(output.ids, output.logprobs, strict=True)
    ]
