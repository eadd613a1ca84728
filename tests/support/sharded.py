"""`python -m tests.support.sharded`: one scenario on the engine that the environment describes, told as JSON.

Under torchrun every rank runs it: the first one tells, the others follow.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.inference.engines import build_engine
from services.inference.engines.lockstep import Place, watch_parent
from services.inference.engines.port import Engine, GenerationRequest, StepOutput
from services.inference.settings import InferenceSettings
from shared.chat import ChatTokenizer, load_chat_tokenizer
from shared.settings import load_settings

CANCELLED_AFTER = 5
SLOTS = 4
SETTINGS = {
    "CHATMESH_DTYPE": "float32",
    "CHATMESH_DEVICE": "cpu",
    "CHATMESH_TORCH_THREADS": "1",
    "CHATMESH_SLOTS": str(SLOTS),
    "CHATMESH_CACHE_TOKENS": "2048",
}


@dataclass
class Scenario:
    """More requests than slots, of different lengths, greedy, seeded and penalised, one of which is cancelled.

    Only the first rank draws: what others would say themselves is the likeliest token. What is drawn from has gaps:
    from a flat distribution over a whole vocabulary, the last bit of a logit draws another token.
    """

    tokenizer: ChatTokenizer
    said: dict[str, list[int]] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def requests(self) -> Iterable[GenerationRequest]:
        return [
            self._request("short", "Hello.", 12),
            self._request("long", "Tell me all about it. " * 40, 60),
            self._request("cancelled", "Go on and on.", 1_000),
            self._request("seeded", "Hello.", 50, temperature=1.0, top_k=5, seed=7),
            self._request("takes the first free slot", "And then?", 40),
            self._request("seeded, from everything", "Hello.", 30, temperature=0.3, seed=11),
            self._request("penalised", "Hello.", 40, presence_penalty=1.5, frequency_penalty=0.5),
            self._request("the same prompt again", "Hello.", 20),
        ]

    def _request(
        self, name: str, content: str, new: int, *, temperature: float = 0.0, **more: Any
    ) -> GenerationRequest:
        prompt_ids = tuple(self.tokenizer.encode([{"role": "user", "content": content}]))
        return GenerationRequest(name, prompt_ids, new, frozenset(), temperature=temperature, **more)

    def on_outputs(self, outputs: list[StepOutput]) -> None:
        for output in outputs:
            self.said.setdefault(output.request_id, []).extend(output.ids)
            if output.finish is not None:
                self.ended[output.request_id] = output.finish
        self.heard.set()

    async def play(self, engine: Engine) -> dict[str, Any]:
        """What was said, and how each request ended. Whoever was cancelled said a few tokens more or less."""
        waiting = list(self.requests())
        submitted, cancelled = 0, False
        while len(self.ended) < len(waiting):
            self.heard.clear()
            while submitted < len(waiting) and submitted - len(self.ended) < SLOTS:
                engine.submit(waiting[submitted])
                submitted += 1
            if not cancelled and len(self.said.get("cancelled", [])) >= CANCELLED_AFTER:
                cancelled = True
                engine.cancel("cancelled")
            async with asyncio.timeout(60):
                await self.heard.wait()
        self.said["cancelled"] = self.said["cancelled"][:CANCELLED_AFTER]
        return {"said": self.said, "ended": self.ended}


async def play(settings: InferenceSettings) -> dict[str, Any]:
    """The scenario from start to close."""
    tokenizer = load_chat_tokenizer(settings.model)
    engine = build_engine(settings.engine_settings(), tokenizer)
    scenario = Scenario(tokenizer)
    await engine.start(scenario.on_outputs, lambda _: None)
    told = await scenario.play(engine)
    if os.environ.get("TEST_STAYS"):
        print(json.dumps(told), flush=True)
        await asyncio.Event().wait()
    await engine.close()
    return told


def main() -> int:
    place = Place.of(os.environ)
    if place is not None:
        watch_parent(lambda: os._exit(1))
    if place is not None and place.rank > 0:
        from services.inference.ranks import main as rank_main

        rank_main(None)
    print(json.dumps(asyncio.run(play(load_settings(InferenceSettings)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
