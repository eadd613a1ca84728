"""An engine without a model, for load and chaos: it says a script at a given pace.

Token n of an answer depends on the prompt and n alone. Another worker that takes a generation over therefore says
exactly what this one would have said, and a test can tell what a client must have received.

There is nothing to draw: temperature, truncation, seed and penalties change nothing, and every token is certain
(log probability 0, and the only likely one). Stop strings are the worker's affair, as with every engine.
"""

import asyncio
import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from services.inference.engines.port import (
    EngineDeadError,
    EngineFullError,
    FinishReason,
    GenerationRequest,
    Likelihood,
    ModelInfo,
    OnOutputs,
    OnProgress,
    StepOutput,
)
from shared.chat import ChatTokenizer

Answer: TypeAlias = Callable[[int], int]
"""n -> the n-th id of the answer, counted from 0."""
Script: TypeAlias = Callable[[tuple[int, ...]], Answer]
"""The answer to a prompt's ids."""

_WORD = re.compile(r"Ġ[a-z]{2,}")  # byte-level BPE's spelling of a space and a word: one token, whole characters


@dataclass(frozen=True, slots=True)
class ScriptedSettings:
    """The pace, and what is said.

    Each stream gets `tokens_per_s` after `first_token_delay_s`; `jitter_s` delays single tokens by up to that much.
    `echo`: each prompt is answered with what its last message says. Else `text` is said to every prompt; both are ended
    by the end-of-turn token. Else words drawn from a hash of the prompt, ended after `length_tokens` (None: never, the
    request's limit ends them). `tick_s` is the length of a step.
    `poison`: a prompt that holds this text kills the engine's loop at its first token, every time.
    """

    model: str = ""
    slots: int = 512
    tokens_per_s: float = 10.0
    first_token_delay_s: float = 0.0
    jitter_s: float = 0.0
    text: str | None = None
    echo: bool = False
    length_tokens: int | None = None
    tick_s: float = 0.01
    poison: str = ""


class PoisonError(RuntimeError):
    """What `ScriptedSettings.poison` raises inside the engine's loop."""


@dataclass(slots=True)
class _Stream:
    request: GenerationRequest
    answer: Answer
    started_s: float
    due_s: float = 0.0
    said: int = 0


class ScriptedEngine:
    """Implements `Engine`; one timer task serves all streams."""

    def __init__(self, settings: ScriptedSettings, tokenizer: ChatTokenizer, script: Script | None = None) -> None:
        """`script` overrides what `settings` say."""
        self._settings = settings
        self._script = script or _script(settings, tokenizer)
        self._info = ModelInfo(tokenizer.model_id, tokenizer.revision, tokenizer.context_window, slots=settings.slots)
        self._streams: dict[str, _Stream] = {}
        self._cancelled: list[str] = []
        self._work = asyncio.Event()
        self._timer: asyncio.Task[None] | None = None
        self._on_outputs: OnOutputs | None = None
        self.steps = 0

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def alive(self) -> bool:
        return self._timer is not None and not self._timer.done()

    async def start(self, on_outputs: OnOutputs, on_progress: OnProgress) -> None:
        self._on_outputs = on_outputs
        on_progress(f"scripted engine: {self._settings.tokens_per_s:g} tokens/s in {self._info.slots} slots")
        self._timer = self._launched(on_outputs)

    async def restart(self) -> None:
        if self._on_outputs is None:
            raise EngineDeadError("the engine was never started")
        await self.close()
        self._timer = self._launched(self._on_outputs)

    async def close(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)

    def submit(self, request: GenerationRequest) -> None:
        if not self.alive:
            raise EngineDeadError("the scripted engine does not run")
        request.check_fits(self._info.context_window)
        if request.id in self._streams:
            raise ValueError(f"request {request.id} runs already")
        if len(self._streams) >= self._info.slots:
            raise EngineFullError(f"all {self._info.slots} slots are taken")
        now_s = asyncio.get_running_loop().time()
        stream = _Stream(request, self._script(request.prompt_ids), now_s + self._settings.first_token_delay_s)
        stream.due_s = self._due_s(stream)
        self._streams[request.id] = stream
        self._work.set()

    def cancel(self, request_id: str) -> None:
        if request_id in self._streams:
            self._cancelled.append(request_id)

    def _launched(self, on_outputs: OnOutputs) -> "asyncio.Task[None]":
        """The loop; who is told that a request died with it finds `alive` false already."""
        timer = asyncio.create_task(self._run(on_outputs), name="scripted-engine")
        timer.add_done_callback(lambda done: self._end_all(on_outputs, done))
        return timer

    async def _run(self, on_outputs: OnOutputs) -> None:
        while True:
            await self._work.wait()
            if outputs := self._step(asyncio.get_running_loop().time()):
                on_outputs(outputs)
            if self._streams:
                await asyncio.sleep(self._settings.tick_s)
            else:
                self._work.clear()

    def _step(self, now_s: float) -> list[StepOutput]:
        """Schedule, say, account: everything that is due by `now_s`."""
        self.steps += 1
        cancelled, self._cancelled = self._cancelled, []
        outputs = [
            StepOutput(request_id, finish="cancelled")
            for request_id in cancelled
            if self._streams.pop(request_id, None) is not None
        ]
        due = [stream for stream in self._streams.values() if stream.due_s <= now_s]
        return [*outputs, *(self._say(stream, now_s) for stream in due)]

    def _say(self, stream: _Stream, now_s: float) -> StepOutput:
        request, ids = stream.request, list[int]()
        finish: FinishReason | None = None
        while finish is None and stream.due_s <= now_s:
            ids.append(stream.answer(len(request.primed_ids) + stream.said))
            stream.said += 1
            stream.due_s = self._due_s(stream)
            if ids[-1] in request.eos_ids:
                finish = "stop"
            elif stream.said == request.max_new_tokens:
                finish = "length"
        if finish is not None:
            del self._streams[request.id]
        return StepOutput(request.id, tuple(ids), finish, logprobs=_certain(request, ids))

    def _due_s(self, stream: _Stream) -> float:
        jitter_s = self._settings.jitter_s
        late_s = random.Random(f"{stream.request.id} {stream.said}").random() * jitter_s if jitter_s else 0.0
        return stream.started_s + stream.said / self._settings.tokens_per_s + late_s

    def _end_all(self, on_outputs: OnOutputs, done: "asyncio.Task[None]") -> None:
        error = "the scripted engine was stopped" if done.cancelled() else f"the script failed: {done.exception()}"
        orphans = [StepOutput(request_id, finish="error", error=error) for request_id in self._streams]
        self._streams.clear()
        self._cancelled.clear()
        self._work.clear()
        if orphans:
            on_outputs(orphans)


def _certain(request: GenerationRequest, ids: Sequence[int]) -> tuple[Likelihood, ...]:
    """The script's token is the only one that could be said, so it is the likeliest too."""
    if request.logprobs is None:
        return ()
    return tuple(Likelihood(0.0, ((token, 0.0),) if request.logprobs else ()) for token in ids)


def _script(settings: ScriptedSettings, tokenizer: ChatTokenizer) -> Script:
    end = min(tokenizer.eos_ids)
    if settings.echo:
        script = _echo(tokenizer, end)
    elif settings.text is not None:
        script = _fixed((*tokenizer.encode_text(settings.text), end))
    else:
        script = _words(_single_token_words(tokenizer), settings.length_tokens, end)
    return _poisoned(script, settings.poison, tokenizer) if settings.poison else script


def _poisoned(script: Script, poison: str, tokenizer: ChatTokenizer) -> Script:
    def fatal(_: int) -> int:
        raise PoisonError(f"the prompt holds {poison!r}")

    return lambda prompt_ids: fatal if poison in tokenizer.backend.decode(list(prompt_ids)) else script(prompt_ids)


def _fixed(ids: Sequence[int]) -> Script:
    def answer(n: int) -> int:
        return ids[min(n, len(ids) - 1)]

    return lambda _prompt_ids: answer


def _echo(tokenizer: ChatTokenizer, end: int) -> Script:
    """The last turn of the prompt, less the line in which chat templates name its role."""
    control = frozenset(tokenizer.backend.get_added_tokens_decoder())

    def script(prompt_ids: tuple[int, ...]) -> Answer:
        closing = max((n for n, i in enumerate(prompt_ids) if i in tokenizer.eos_ids), default=len(prompt_ids))
        opening = max((n for n, i in enumerate(prompt_ids[:closing]) if i in control), default=-1)
        _role, _, text = tokenizer.decode(prompt_ids[opening + 1 : closing]).partition("\n")
        return _fixed((*tokenizer.encode_text(text.strip()), end))(prompt_ids)

    return script


def _words(words: Sequence[int], length_tokens: int | None, end: int) -> Script:
    def script(prompt_ids: tuple[int, ...]) -> Answer:
        seed = hashlib.blake2b(repr(prompt_ids).encode(), digest_size=16).digest()

        def answer(n: int) -> int:
            if n == length_tokens:
                return end
            digest = hashlib.blake2b(n.to_bytes(8, "little"), key=seed, digest_size=8).digest()
            return words[int.from_bytes(digest, "little") % len(words)]

        return answer

    return script


def _single_token_words(tokenizer: ChatTokenizer) -> list[int]:
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=False)
    return sorted(token_id for token, token_id in vocabulary.items() if _WORD.fullmatch(token))
