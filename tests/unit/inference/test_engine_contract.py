"""What every engine promises (services.inference.engines.port), run over each of them.

The scripted engine breaks through its script, the transformers engine through a hook in the model's forward pass.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest
import pytest_asyncio
import torch

from services.inference.engines import ScriptedSettings, TransformersSettings, batching
from services.inference.engines.port import (
    Engine,
    EngineDeadError,
    EngineFullError,
    EngineLoadError,
    GenerationRequest,
    RequestTooLongError,
    StepOutput,
)
from services.inference.engines.scripted import ScriptedEngine
from services.inference.engines.transformers import TransformersEngine
from shared.chat import ChatTokenizer, load_chat_tokenizer

SLOTS = 4
CAPITAL = "What is the capital of France?"
TIMEOUT_S = 60


@dataclass
class Rig:
    """An engine, what it said, and how to break it."""

    engine: Engine
    tokenizer: ChatTokenizer
    breaks: Callable[[], Callable[[], None]]  # breaks the engine's next step; returns the repair
    outputs: dict[str, list[StepOutput]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    batches: int = 0

    def on_outputs(self, outputs: list[StepOutput]) -> None:
        self.batches += 1
        for output in outputs:
            self.outputs.setdefault(output.request_id, []).append(output)
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    async def finished(self, request_id: str) -> StepOutput:
        await self.until(lambda: bool(self.outputs.get(request_id, [])) and self.last(request_id).finish is not None)
        return self.last(request_id)

    async def run(self, request: GenerationRequest) -> tuple[int, ...]:
        self.engine.submit(request)
        await self.finished(request.id)
        return self.ids(request.id)

    def last(self, request_id: str) -> StepOutput:
        return self.outputs[request_id][-1]

    def ids(self, request_id: str) -> tuple[int, ...]:
        return tuple(token_id for output in self.outputs.get(request_id, []) for token_id in output.ids)

    def request(
        self, name: str, content: str = CAPITAL, *, new: int = 12, temperature: float = 0.0
    ) -> GenerationRequest:
        return GenerationRequest(
            id=name,
            prompt_ids=tuple(self.tokenizer.encode([{"role": "user", "content": content}])),
            max_new_tokens=new,
            eos_ids=self.tokenizer.eos_ids,
            temperature=temperature,
        )

    def endless(self, name: str, content: str = CAPITAL) -> GenerationRequest:
        return replace(self.request(name, content, new=2_000), eos_ids=frozenset())


def scripted_rig(tokenizer: ChatTokenizer) -> Rig:
    broken = [False]
    settings = ScriptedSettings(slots=SLOTS, tokens_per_s=200, length_tokens=9, tick_s=0.002)
    plain = ScriptedEngine(settings, tokenizer)._script

    def script(prompt_ids: tuple[int, ...]) -> Callable[[int], int]:
        answer = plain(prompt_ids)

        def nth(n: int) -> int:
            if broken[0]:
                raise RuntimeError("broken on purpose")
            return answer(n)

        return nth

    def breaks() -> Callable[[], None]:
        broken[0] = True
        return lambda: broken.__setitem__(0, False)

    return Rig(ScriptedEngine(settings, tokenizer, script), tokenizer, breaks)


def transformers_rig(tokenizer: ChatTokenizer) -> Rig:
    engine = TransformersEngine(TransformersSettings(slots=SLOTS, cache_tokens=8_192), tokenizer)

    def fail(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    return Rig(engine, tokenizer, lambda: engine.model.register_forward_pre_hook(fail).remove)


@pytest_asyncio.fixture(
    scope="session",
    params=[
        pytest.param(scripted_rig, id="scripted"),
        pytest.param(transformers_rig, id="transformers", marks=pytest.mark.weights),
    ],
)
async def started(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    rig = request.param(load_chat_tokenizer(""))
    progress: list[str] = []
    await rig.engine.start(rig.on_outputs, progress.append)
    assert progress
    yield rig
    await rig.engine.close()
    assert not rig.engine.alive


@pytest.fixture
def rig(started: Rig) -> Rig:
    started.outputs.clear()
    assert started.engine.alive
    return started


def is_model(rig: Rig) -> bool:
    return isinstance(rig.engine, TransformersEngine)


async def test_each_output_carries_only_new_ids(rig: Rig) -> None:
    await rig.run(rig.request("r"))
    said = rig.outputs["r"]
    assert [output.finish for output in said[:-1]] == [None] * (len(said) - 1)
    assert all(output.ids for output in said)
    assert sum(len(output.ids) for output in said) <= 12


async def test_the_end_of_turn_stops_and_is_the_last_id(rig: Rig) -> None:
    ids = await rig.run(rig.request("r", new=100))
    assert rig.last("r").finish == "stop"
    assert ids[-1] in rig.tokenizer.eos_ids
    assert not set(ids[:-1]) & rig.tokenizer.eos_ids


async def test_the_capital_of_france(rig: Rig) -> None:
    ids = await rig.run(rig.request("r", new=100))
    if is_model(rig):
        assert "Paris" in rig.tokenizer.decode(ids)
    else:
        assert len(rig.tokenizer.decode(ids).split()) == len(ids) - 1


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_the_limit_is_exact(rig: Rig, limit: int) -> None:
    assert len(await rig.run(rig.request("r", new=limit))) == limit
    assert rig.last("r").finish == "length"


@pytest.mark.parametrize("said", [1, 3, 6])
async def test_a_primed_request_goes_on_exactly(rig: Rig, said: int) -> None:
    whole = await rig.run(rig.request("whole", new=100))
    primed = replace(rig.request("primed", new=100 - said), primed_ids=whole[:said])
    assert await rig.run(primed) == whole[said:]


async def test_the_limit_of_a_primed_request_counts_from_there(rig: Rig) -> None:
    whole = await rig.run(rig.request("whole", new=6))
    assert await rig.run(replace(rig.request("primed", new=2), primed_ids=whole[:4])) == whole[4:]


async def test_concurrent_requests_do_not_mix(rig: Rig) -> None:
    capitals = {"France": "Paris", "Germany": "Berlin", "Poland": "Warsaw", "Japan": "Tokyo"}
    requests = [rig.request(country, f"What is the capital of {country}?") for country in capitals]
    together = await asyncio.gather(*map(rig.run, requests))
    if is_model(rig):  # not token for token: bfloat16 sums depend on the batch's shape, and near ties fall either way
        texts = [rig.tokenizer.decode(ids) for ids in together]
        assert [capital in text for capital, text in zip(capitals.values(), texts, strict=True)] == [True] * SLOTS
    else:
        assert together == [await rig.run(replace(request, id=f"{request.id} alone")) for request in requests]
        assert len(set(together)) == SLOTS


async def test_greedy_and_sampled_requests_share_a_batch(rig: Rig) -> None:
    greedy = await rig.run(rig.request("greedy", new=6))
    hot = [replace(rig.request(f"hot-{n}", new=6, temperature=5.0), seed=n) for n in range(SLOTS - 1)]
    cold, *sampled = await asyncio.gather(*map(rig.run, [rig.request("cold", new=6), *hot]))
    assert cold == greedy
    if is_model(rig):
        assert len({greedy, *sampled}) == SLOTS


async def test_a_seed_repeats_itself_also_after_a_takeover(rig: Rig) -> None:
    request = replace(rig.request("first", new=6, temperature=0.8), seed=7, top_p=0.9, top_k=50)
    first = await rig.run(request)
    assert await rig.run(replace(request, id="again")) == first
    assert await rig.run(replace(request, id="over", primed_ids=first[:3], max_new_tokens=3)) == first[3:]


async def test_a_seed_repeats_itself_with_penalties_beside_others(rig: Rig) -> None:
    request = replace(
        rig.request("first", new=8, temperature=0.9), seed=3, presence_penalty=0.5, frequency_penalty=0.5, logprobs=1
    )
    first = await rig.run(request)
    assert await rig.run(replace(request, id="again")) == first
    assert await rig.run(replace(request, id="over", primed_ids=first[:5], max_new_tokens=3)) == first[5:]


async def test_penalties_end_repetition(rig: Rig) -> None:
    """The greedy answer to this repeats itself; with every token forbidden that was said it cannot."""
    request = replace(rig.request("repeats", "Repeat: no no no no no no", new=24), eos_ids=frozenset())
    repeated = await rig.run(request)
    if is_model(rig):
        never_again = await rig.run(replace(request, id="varies", presence_penalty=2.0, frequency_penalty=2.0))
        assert len(set(never_again)) > len(set(repeated))
        forbidden = await rig.run(replace(request, id="forbidden", presence_penalty=1_000.0))
        assert len(set(forbidden)) == 24
    else:
        assert await rig.run(replace(request, id="scripts have nothing to weigh", presence_penalty=2.0)) == repeated


async def test_who_asks_gets_log_probabilities_for_each_id_and_nobody_else(rig: Rig) -> None:
    asking = [replace(rig.request(f"top{n}", new=5), logprobs=n) for n in (0, 3, 20)]
    answers = await asyncio.gather(*map(rig.run, [*asking, rig.request("silent", new=5)]))
    for request, ids in zip(asking, answers, strict=False):
        told = [likelihood for output in rig.outputs[request.id] for likelihood in output.logprobs]
        assert len(told) == len(ids)
        for token, likelihood in zip(ids, told, strict=True):
            assert len(likelihood.top) == (min(1, request.logprobs or 0) if not is_model(rig) else request.logprobs)
            assert likelihood.logprob <= 0
            assert not likelihood.top or likelihood.top[0] == (token, likelihood.logprob), "greedy says the likeliest"
            assert [p for _, p in likelihood.top] == sorted((p for _, p in likelihood.top), reverse=True)
    assert all(output.logprobs == () for output in rig.outputs["silent"])


async def test_a_batch_reports_once_per_step(rig: Rig) -> None:
    steps, batches = rig.engine.steps, rig.batches
    await asyncio.gather(*(rig.run(rig.request(f"r{n}")) for n in range(SLOTS)))
    assert rig.engine.steps > steps
    assert rig.batches - batches <= rig.engine.steps - steps


async def test_cancel_frees_the_slot_within_a_second(rig: Rig) -> None:
    for n in range(SLOTS):
        rig.engine.submit(rig.endless(f"r{n}"))
    await rig.until(lambda: len(rig.outputs) == SLOTS)
    with pytest.raises(EngineFullError, match=f"{SLOTS} slots"):
        rig.engine.submit(rig.request("late"))

    started_s = time.monotonic()
    rig.engine.cancel("r1")
    assert (await rig.finished("r1")).finish == "cancelled"
    rig.engine.submit(rig.request("late", new=2))
    await rig.finished("late")
    assert time.monotonic() - started_s < 1 + 0.5  # the second, and the two tokens of the next

    for n in (0, 2, 3):
        rig.engine.cancel(f"r{n}")
        assert (await rig.finished(f"r{n}")).finish == "cancelled"
    length = len(rig.outputs["r1"])
    await rig.run(rig.request("after"))
    assert len(rig.outputs["r1"]) == length


async def test_cancelling_what_does_not_run_is_harmless(rig: Rig) -> None:
    rig.engine.cancel("never-seen")
    await rig.run(rig.request("r"))
    rig.engine.cancel("r")
    await rig.run(rig.request("next"))
    assert [output.finish for output in rig.outputs["r"] if output.finish] == [rig.last("r").finish]


async def test_a_request_cancelled_at_once_ends_once(rig: Rig) -> None:
    rig.engine.submit(rig.endless("r"))
    rig.engine.cancel("r")
    rig.engine.cancel("r")
    assert (await rig.finished("r")).finish == "cancelled"
    await rig.run(rig.request("next"))
    assert [output.finish for output in rig.outputs["r"] if output.finish] == ["cancelled"]


async def test_an_id_runs_once_at_a_time(rig: Rig) -> None:
    rig.engine.submit(rig.endless("r"))
    with pytest.raises(ValueError, match="runs already"):
        rig.engine.submit(rig.request("r"))
    rig.engine.cancel("r")
    await rig.finished("r")
    rig.outputs.clear()
    assert await rig.run(rig.request("r"))


async def test_what_passes_the_window_is_refused_with_both_numbers(rig: Rig) -> None:
    window = rig.engine.info.context_window
    with pytest.raises(RequestTooLongError, match=f"{window:,}"):
        rig.engine.submit(rig.request("r", new=window))


async def test_death_is_told_to_every_request_and_can_be_mended(rig: Rig) -> None:
    before = await rig.run(rig.request("before"))
    steps = rig.engine.steps
    rig.engine.submit(rig.endless("r0"))
    rig.engine.submit(rig.endless("r1"))
    await rig.until(lambda: {"r0", "r1"} <= rig.outputs.keys())

    repair = rig.breaks()
    for name in ("r0", "r1"):
        last = await rig.finished(name)
        assert last.finish == "error"
        assert "broken on purpose" in (last.error or "")
    assert not rig.engine.alive
    with pytest.raises(EngineDeadError):
        rig.engine.submit(rig.request("late"))

    repair()
    await rig.engine.restart()
    assert rig.engine.alive
    assert rig.engine.steps >= steps
    assert await rig.run(rig.request("after")) == before


async def test_a_restart_ends_what_still_runs(rig: Rig) -> None:
    rig.engine.submit(rig.endless("r"))
    await rig.until(lambda: "r" in rig.outputs)
    await rig.engine.restart()
    assert (await rig.finished("r")).finish == "error"
    assert await rig.run(rig.request("next"))


async def test_a_cache_that_does_not_fit_names_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB.")

    engine = TransformersEngine(TransformersSettings(slots=SLOTS, cache_tokens=10_000_000), load_chat_tokenizer(""))
    monkeypatch.setattr(engine, "_load", object)
    monkeypatch.setattr(batching, "BatchLoop", no_memory)
    with pytest.raises(EngineLoadError, match=r"10,000,000 tokens for 4 slots .*CHATMESH_CACHE_TOKENS.*80\.00 GiB"):
        await engine.start(lambda outputs: None, lambda line: None)
    assert not engine.alive
