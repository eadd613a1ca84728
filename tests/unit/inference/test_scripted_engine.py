"""What only the scripted engine promises: the script, the pace, and many streams."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.inference.engines import ScriptedSettings, build_engine
from services.inference.engines.port import Engine, GenerationRequest, StepOutput
from services.inference.engines.scripted import ScriptedEngine
from shared.chat import ChatTokenizer, load_chat_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return load_chat_tokenizer("")


class Said:
    """Collects outputs and waits for ends."""

    def __init__(self) -> None:
        self.ids: dict[str, list[int]] = {}
        self.finish: dict[str, str] = {}
        self.first_s: dict[str, float] = {}
        self._changed = asyncio.Event()

    def __call__(self, outputs: list[StepOutput]) -> None:
        for output in outputs:
            self.first_s.setdefault(output.request_id, time.monotonic())
            self.ids.setdefault(output.request_id, []).extend(output.ids)
            if output.finish:
                self.finish[output.request_id] = output.finish
        self._changed.set()

    async def ends(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.finish) < count:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def running(settings: ScriptedSettings) -> AsyncIterator[tuple[Engine, Said]]:
    engine, said = build_engine(settings, load_chat_tokenizer(settings.model)), Said()
    await engine.start(said, lambda line: None)
    yield engine, said
    await engine.close()


def request(
    tokenizer: ChatTokenizer, name: str, *, prompt: str | None = None, new: int = 40, primed: tuple[int, ...] = ()
) -> GenerationRequest:
    return GenerationRequest(
        id=name,
        prompt_ids=tuple(tokenizer.encode_text(prompt or name)),
        max_new_tokens=new,
        eos_ids=tokenizer.eos_ids,
        primed_ids=primed,
    )


async def test_it_says_the_given_text(tokenizer: ChatTokenizer) -> None:
    text = "Grüße 🎉, line\nand all."
    async with running(ScriptedSettings(text=text, tokens_per_s=5_000)) as (engine, said):
        engine.submit(request(tokenizer, "r"))
        await said.ends(1)
    assert tokenizer.decode(said.ids["r"]) == text
    assert said.finish["r"] == "stop"


async def test_its_echo_says_what_the_last_message_says(tokenizer: ChatTokenizer) -> None:
    text = "Grüße 🎉, line\n<|im_end|> and all."
    turns = [{"role": "system", "content": "Echo."}, {"role": "user", "content": "Before"}]
    prompt = tokenizer.encode([*turns, {"role": "assistant", "content": "Before"}, {"role": "user", "content": text}])
    async with running(ScriptedSettings(echo=True, tokens_per_s=5_000)) as (engine, said):
        engine.submit(GenerationRequest("r", tuple(prompt), max_new_tokens=99, eos_ids=tokenizer.eos_ids))
        await said.ends(1)
    assert tokenizer.decode(said.ids["r"]) == text
    assert said.finish["r"] == "stop"


async def test_the_text_is_a_function_of_the_prompt(tokenizer: ChatTokenizer) -> None:
    said_by = []
    for settings in (ScriptedSettings(tokens_per_s=5_000), ScriptedSettings(tokens_per_s=900, jitter_s=0.01)):
        async with running(settings) as (engine, said):
            for name in ("a", "b"):
                engine.submit(request(tokenizer, name))
            await said.ends(2)
            said_by.append(said.ids)
    assert said_by[0] == said_by[1]
    assert said_by[0]["a"] != said_by[0]["b"]


async def test_another_engine_takes_over_at_any_position(tokenizer: ChatTokenizer) -> None:
    settings = ScriptedSettings(tokens_per_s=10_000, length_tokens=10)
    async with running(settings) as (engine, said):
        engine.submit(request(tokenizer, "whole", prompt="p"))
        await said.ends(1)
    whole = tuple(said.ids["whole"])
    assert len(whole) == 11
    async with running(settings) as (engine, said):
        for n in range(len(whole)):
            engine.submit(request(tokenizer, f"{n}", prompt="p", primed=whole[:n]))
        await said.ends(len(whole))
    assert [tuple(said.ids[f"{n}"]) for n in range(len(whole))] == [whole[n:] for n in range(len(whole))]


async def test_a_poisoned_prompt_kills_the_loop_for_all_every_time(tokenizer: ChatTokenizer) -> None:
    async with running(ScriptedSettings(poison="hemlock", tokens_per_s=5_000)) as (engine, said):
        for attempt in range(2):
            engine.submit(request(tokenizer, f"innocent {attempt}", new=1_000))
            engine.submit(request(tokenizer, f"poison {attempt}", prompt="Drink the hemlock."))
            await said.ends(2 * attempt + 2)
            assert not engine.alive
            await engine.restart()
        engine.submit(request(tokenizer, "later", new=3))
        await said.ends(5)
    assert said.finish.pop("later") == "length"
    assert set(said.finish.values()) == {"error"}
    assert not said.ids["poison 0"]


async def test_who_hears_of_the_loop_s_death_finds_the_engine_dead(tokenizer: ChatTokenizer) -> None:
    alive: list[bool] = []
    engine = build_engine(ScriptedSettings(poison="hemlock"), tokenizer)
    await engine.start(lambda outputs: alive.append(engine.alive), lambda line: None)
    engine.submit(request(tokenizer, "r", prompt="hemlock"))
    async with asyncio.timeout(5):
        while not alive:
            await asyncio.sleep(0.01)
    await engine.close()
    assert alive == [False]


async def test_it_keeps_the_pace(tokenizer: ChatTokenizer) -> None:
    settings = ScriptedSettings(tokens_per_s=100, first_token_delay_s=0.2)
    async with running(settings) as (engine, said):
        started_s = time.monotonic()
        engine.submit(request(tokenizer, "r", new=41))
        await said.ends(1)
        ended_s = time.monotonic()
    assert said.first_s["r"] - started_s >= 0.2
    assert 0.6 <= ended_s - started_s < 3


async def test_five_hundred_streams_at_ten_tokens_a_second(tokenizer: ChatTokenizer) -> None:
    async with running(ScriptedSettings(slots=500, tokens_per_s=10)) as (engine, said):
        began_cpu_s, began_s = time.process_time(), time.monotonic()
        for n in range(500):
            engine.submit(request(tokenizer, f"r{n}", new=20))
        await said.ends(500)
        used = (time.process_time() - began_cpu_s) / (time.monotonic() - began_s)
    assert sum(map(len, said.ids.values())) == 10_000
    assert used < 0.6  # of one core; 0.1 when nothing else runs


async def test_it_rests_without_streams(tokenizer: ChatTokenizer) -> None:
    async with running(ScriptedSettings(tokens_per_s=5_000)) as (engine, said):
        engine.submit(request(tokenizer, "r", new=3))
        await said.ends(1)
        await asyncio.sleep(0.05)
        steps = engine.steps
        await asyncio.sleep(0.1)
        assert engine.steps == steps


def test_every_word_is_one_whole_token(tokenizer: ChatTokenizer) -> None:
    engine = ScriptedEngine(ScriptedSettings(), tokenizer)
    answer = engine._script((1, 2, 3))
    decoder = tokenizer.decode_stream()
    assert all(decoder.push(answer(n)).startswith(" ") for n in range(1_000))
