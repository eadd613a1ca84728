"""A generative guard model (Llama Guard, Qwen3Guard, Granite Guardian, …), on the engine that inference has.

The policy's template makes a prompt of the conversation, whose last turn is the text to judge; the model says its
verdict, greedily, in a few tokens. `services/moderation/policies/examples` has templates and labels of three families.

Sums of floats depend on what shares a step of the engine. In float32, which is used on CPUs, a score moves by less than
a ten-thousandth that way; in bfloat16, on accelerators, by some thousandths.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from services.moderation.backends.answers import AnswerReader, Reading, UnreadableAnswerError
from services.moderation.backends.port import BackendError, Excerpt, Judgement
from services.moderation.policy import GuardSpec
from shared.errors import ChatmeshError, SettingsError

if TYPE_CHECKING:
    from services.inference.engines import Engine
    from services.moderation.backends.asking import Answers
    from services.moderation.backends.prompts import Prompts
    from shared.chat import ChatTokenizer

SLOTS = 8
_CACHE_TOKENS = 32_768

Load: TypeAlias = Callable[[GuardSpec], "tuple[Engine, ChatTokenizer]"]


@dataclass(frozen=True, slots=True)
class _Guard:
    """What a started backend has."""

    prompts: "Prompts"
    answers: "Answers"
    reader: AnswerReader


class GuardBackend:
    """Implements `Backend`.

    A conversation that the model's window does not hold is judged without its oldest turns; a text that it does not
    hold even so is judged in halves, of which the worse counts.
    """

    def __init__(self, name: str, spec: GuardSpec, load: Load | None = None) -> None:
        """Loads nothing. `load` makes the engine, not started, and its tokenizer; it blocks."""
        self.name = name
        self.revision = spec.revision or ""
        self.categories = frozenset(spec.labels.values())
        self.batch = SLOTS
        self._spec = spec
        self._load = load or load_engine
        self._guard: _Guard | None = None

    async def start(self) -> None:
        """Raises SettingsError: no such model, a template that is no Jinja, a library that is not installed."""
        try:
            self._guard = await self._started()
        except ImportError as error:
            raise SettingsError(
                f"backend {self.name} (guard) needs torch and transformers: pip install 'chatmesh[inference]' ({error})"
            ) from error
        except ChatmeshError as error:
            raise SettingsError(f"backend {self.name}: {error}") from error

    async def judge(self, excerpts: Sequence[Excerpt]) -> list[Judgement]:
        """Raises BackendError."""
        guard = self._guard
        if guard is None:
            raise BackendError(f"{self.name} was not started")
        try:
            asked = await asyncio.to_thread(lambda: [list(guard.prompts.of(excerpt)) for excerpt in excerpts])
            answers = iter(await guard.answers.to_all([prompt for prompts in asked for prompt in prompts]))
            readings = [[guard.reader.read(next(answers)) for _ in prompts] for prompts in asked]
        except (ChatmeshError, UnreadableAnswerError) as error:
            raise BackendError(f"{self.name}: {error}") from error
        return [self._judgement(of_excerpt) for of_excerpt in readings]

    async def stop(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.answers.stop()

    async def _started(self) -> _Guard:
        from services.moderation.backends.asking import Answers
        from services.moderation.backends.prompts import Prompts

        engine, tokenizer = await asyncio.to_thread(self._load, self._spec)
        prompts = await asyncio.to_thread(Prompts, tokenizer, self._spec, engine.info.context_window)
        answers = Answers(engine, tokenizer.eos_ids, self._spec.max_tokens)
        await answers.start()
        self.revision = tokenizer.revision
        return _Guard(prompts, answers, AnswerReader(self._spec.safe, self._spec.labels, tokenizer.decode))

    def _judgement(self, readings: Sequence[Reading]) -> Judgement:
        """The worse of the parts; a category that no answer names has 0."""
        scores = dict.fromkeys(sorted(self.categories), 0.0)
        for reading in readings:
            for category, score in reading.scores.items():
                scores[category] = max(scores[category], score)
        return Judgement(scores, flagged=frozenset(c for r in readings if r.unsafe for c in r.scores))


def load_engine(spec: GuardSpec) -> "tuple[Engine, ChatTokenizer]":
    """The engine of inference for the model that the policy names, not started. Raises SettingsError, ModelError,
    ImportError."""
    import torch

    from services.inference.engines import TransformersSettings, build_engine
    from shared.chat import ModelNotFoundError, load_chat_tokenizer

    model = spec.model if spec.revision is None else f"{spec.model}@{spec.revision}"
    dtype = "bfloat16" if torch.accelerator.is_available() else "float32"
    settings = TransformersSettings(model=model, slots=SLOTS, cache_tokens=_CACHE_TOKENS, dtype=dtype)
    try:
        tokenizer = load_chat_tokenizer(model)
    except ModelNotFoundError as error:
        raise SettingsError(f"the model {model} is neither a folder nor to be had from the hub") from error
    return build_engine(settings, tokenizer), tokenizer
