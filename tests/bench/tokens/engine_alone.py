"""The scripted engine with nobody to hear it: what of a worker's CPU time is neither decoding nor publishing.

`python -m tests.bench.tokens.engine_alone` reads a `TokenLoad` as JSON, prints a line once all streams run, and runs
until it is killed.
"""

import asyncio
import json
import sys
from itertools import islice

import uvloop

from services.inference.engines.port import GenerationRequest
from services.inference.engines.scripted import ScriptedEngine, ScriptedSettings
from shared.chat import load_chat_tokenizer
from tests.bench.tokens.rate import NEVER_ENDS, STARTS_PER_S, TokenLoad, due


async def _main() -> None:
    load = TokenLoad(**json.loads(sys.stdin.readline()))
    tokenizer = load_chat_tokenizer("")
    settings = ScriptedSettings(slots=load.streams, tokens_per_s=load.tokens_per_s / load.streams)
    engine = ScriptedEngine(settings, tokenizer)
    await engine.start(lambda outputs: None, lambda line: None)
    prompt = tuple(tokenizer.encode_text("Tell me about rivers."))
    waiting = iter(range(load.streams))
    async for count in due(STARTS_PER_S):
        some = list(islice(waiting, count))
        if count and not some:
            break
        for number in some:
            engine.submit(GenerationRequest(str(number), prompt, NEVER_ENDS, tokenizer.eos_ids))
    print("runs", flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
