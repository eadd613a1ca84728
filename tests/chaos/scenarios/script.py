"""What the scripted engine says to a prompt, found out by asking it in this process: what clients must receive."""

import asyncio
from collections.abc import Iterable, Sequence

from services.inference.engines.port import GenerationRequest, StepOutput
from services.inference.engines.scripted import ScriptedEngine, ScriptedSettings
from shared.chat import ChatTokenizer, load_chat_tokenizer

Turns = tuple[tuple[str, str], ...]
"""(role, text) of each message of a prompt, oldest first."""

_TOKENS_PER_S = 1e6


class Script:
    """The answers of an engine without a mesh."""

    def __init__(self) -> None:
        self._tokenizer: ChatTokenizer = load_chat_tokenizer("")

    async def texts(self, wanted: Iterable[tuple[Turns, int]]) -> list[str]:
        """The raw text that each prompt gets within its limit of tokens."""
        engine = ScriptedEngine(ScriptedSettings(tokens_per_s=_TOKENS_PER_S, slots=1 << 16), self._tokenizer)
        requests = {str(number): (turns, limit) for number, (turns, limit) in enumerate(wanted)}
        said: dict[str, list[int]] = {name: [] for name in requests}
        ended = asyncio.Event()
        left = set(requests)

        def collect(outputs: list[StepOutput]) -> None:
            for output in outputs:
                said[output.request_id].extend(output.ids)
                if output.finish is not None:
                    left.discard(output.request_id)
            if not left:
                ended.set()

        await engine.start(collect, lambda line: None)
        for name, (turns, limit) in requests.items():
            engine.submit(self._request(name, turns, limit))
        if left:
            await ended.wait()
        await engine.close()
        return [self._text(ids) for ids in said.values()]

    def _request(self, name: str, turns: Turns, limit: int) -> GenerationRequest:
        messages = [{"role": role, "content": text} for role, text in turns]
        return GenerationRequest(
            id=name,
            prompt_ids=tuple(self._tokenizer.encode(messages)),
            max_new_tokens=limit,
            eos_ids=self._tokenizer.eos_ids,
        )

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([token for token in ids if token not in self._tokenizer.eos_ids])
