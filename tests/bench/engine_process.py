"""The engine alone, in one process: a line of JSON in (prompts), a line of JSON out (samples).

Tokenizing the prompt and decoding the answer are part of what is measured, as they are through the mesh.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from services.inference.engines import Engine, build_engine
from services.inference.engines.port import GenerationRequest, StepOutput
from services.inference.settings import InferenceSettings
from shared.chat import ChatTokenizer, IncrementalDecoder, load_chat_tokenizer
from shared.settings import load_settings
from tests.bench.load import BenchError
from tests.bench.workload import Sample


@dataclass(slots=True)
class _Answer:
    sent_s: float
    decoder: IncrementalDecoder
    done: "asyncio.Future[Sample]"
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    characters: int = 0

    def take(self, output: StepOutput) -> None:
        for token_id in output.ids:
            piece = self.decoder.push(token_id)
            self.tokens += 1
            if piece:
                self.times.append(time.perf_counter())
                self.characters += len(piece)
        if output.finish in ("stop", "length"):
            sample = Sample(self.sent_s, self.times[0], self.times[-1], self.tokens, len(self.times), self.characters)
            self.done.set_result(sample)
        elif output.finish is not None:
            self.done.set_exception(BenchError(f"the engine ended with {output.finish}: {output.error}"))


class EngineBench:
    """Runs prompts through an engine and measures each answer."""

    def __init__(self, engine: Engine, tokenizer: ChatTokenizer, max_tokens: int) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._answers: dict[str, _Answer] = {}

    def on_outputs(self, outputs: list[StepOutput]) -> None:
        for output in outputs:
            self._answers[output.request_id].take(output)

    async def measure(self, prompts: list[str]) -> list[Sample]:
        return list(await asyncio.gather(*(self._one(prompt) for prompt in prompts)))

    async def _one(self, prompt: str) -> Sample:
        sent_s = time.perf_counter()
        ids = self._tokenizer.encode([{"role": "user", "content": prompt}])
        request_id = f"bench-{len(self._answers)}"
        done: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = _Answer(sent_s, self._tokenizer.decode_stream(), done)
        self._engine.submit(
            GenerationRequest(request_id, tuple(ids), self._max_tokens, self._tokenizer.eos_ids, temperature=0.0)
        )
        return await done


async def _main(max_tokens: int) -> None:
    settings = load_settings(InferenceSettings)
    tokenizer = load_chat_tokenizer(settings.model)
    engine = build_engine(settings.engine_settings(), tokenizer)
    bench = EngineBench(engine, tokenizer, max_tokens)
    # What libraries print goes to stderr: stdout carries answers only.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    await engine.start(bench.on_outputs, lambda line: None)
    _say(answers, "ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        _say(answers, [asdict(sample) for sample in await bench.measure(json.loads(line))])
    await engine.close()


def _say(stream: Any, value: object) -> None:
    print(json.dumps(value), file=stream, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
