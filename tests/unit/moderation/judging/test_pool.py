"""Backends are shared while policies in use name them, and freed when none has for a while."""

import asyncio
from collections.abc import Sequence

import pytest

from services.moderation.backends.port import Excerpt, Judgement
from services.moderation.judging import JudgePool
from services.moderation.judging.pool import RETIRED_AFTER_S
from services.moderation.policy import BackendSpec, Policy, parse_policy
from services.moderation.windows import Window
from shared.errors import SettingsError
from tests.support.fakes import settle


def policy(version: str, *backends: str) -> Policy:
    named = "".join(f"  {name}: {{kind: upstream, base_url: 'http://{name}/v1'}}\n" for name in backends)
    return parse_policy(f"version: {version}\ncategories: {{hate: {{output: cut}}}}\nbackends:\n{named or '  {}'}\n")


class Counted:
    """A backend that says how often it was started and stopped."""

    revision, categories, batch = "1", frozenset({"hate"}), 1

    def __init__(self, name: str, log: list[str], loaded: asyncio.Event) -> None:
        self.name = name
        self._log = log
        self._loaded = loaded

    async def start(self) -> None:
        self._log.append(f"+{self.name}")
        await self._loaded.wait()
        if self.name == "broken":
            raise SettingsError("no such model")

    async def stop(self) -> None:
        self._log.append(f"-{self.name}")

    async def judge(self, excerpts: Sequence[Excerpt]) -> Sequence[Judgement]:
        return [Judgement() for _ in excerpts]


class Bench:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.log: list[str] = []
        self.loaded = asyncio.Event()
        self.loaded.set()
        self.pool = JudgePool(self.build, clock=lambda: self.now_s)

    def build(self, name: str, _spec: BackendSpec) -> Counted:
        if name == "unbuildable":
            raise SettingsError("no such kind")
        return Counted(name, self.log, self.loaded)

    async def later(self, *in_use: Policy, seconds: float = RETIRED_AFTER_S) -> None:
        """The pool is told once a second, and at the end of so many of them."""
        await self.pool.retire(in_use)
        self.now_s += seconds
        await self.pool.retire(in_use)


async def test_policies_that_say_the_same_of_a_backend_share_it() -> None:
    bench = Bench()
    await bench.pool.prepare(policy("one", "a"))
    await bench.pool.prepare(policy("two", "a", "b"))
    assert bench.log == ["+a", "+b"]


async def test_what_no_policy_in_use_names_is_freed_after_a_while() -> None:
    bench = Bench()
    first, second = policy("one", "a", "b"), policy("two", "b", "c")
    await bench.pool.prepare(first)
    await bench.pool.prepare(second)
    bench.log.clear()
    await bench.later(first, second)  # a response of the first still runs
    await bench.later(second, seconds=RETIRED_AFTER_S - 1)
    assert bench.log == []
    await bench.later(second, seconds=1)
    assert bench.log == ["-a"]
    await bench.pool.close()
    assert sorted(bench.log) == ["-a", "-b", "-c"]


async def test_one_that_was_prepared_and_is_not_in_use_yet_is_left_its_time() -> None:
    """Between the preparation of a policy and its first response."""
    bench = Bench()
    await bench.pool.retire([])
    await bench.pool.prepare(policy("one", "a"))
    await bench.later(seconds=RETIRED_AFTER_S - 1)
    assert bench.log == ["+a"]


async def test_who_comes_back_to_a_policy_has_a_judge_whose_backends_run() -> None:
    bench = Bench()
    first = policy("one", "a")
    await bench.pool.prepare(first)
    before = bench.pool.judge(first)
    assert bench.pool.judge(first) is before
    await bench.later()
    assert bench.log == ["+a", "-a"]
    assert bench.pool.judge(first) is not before
    await bench.pool.prepare(first)
    assert bench.log == ["+a", "-a", "+a"]


async def test_a_policy_that_cannot_be_prepared_leaves_nothing_behind() -> None:
    bench = Bench()
    await bench.pool.prepare(policy("one", "a"))
    with pytest.raises(SettingsError, match="no such model"):
        await bench.pool.prepare(policy("two", "a", "b", "broken"))
    assert sorted(bench.log) == ["+a", "+b", "+broken", "-b", "-broken"]


async def test_one_that_is_not_built_is_told_of_as_what_it_is() -> None:
    bench = Bench()
    with pytest.raises(SettingsError, match="no such kind"):
        await bench.pool.prepare(policy("one", "a", "unbuildable"))
    assert bench.log == ["-a"]


async def test_a_model_may_take_longer_to_load_than_an_unused_one_is_kept() -> None:
    bench = Bench()
    bench.loaded.clear()
    first, second = policy("one"), policy("two", "a")
    preparing = asyncio.create_task(bench.pool.prepare(second))
    await settle()
    await bench.later(first, seconds=10 * RETIRED_AFTER_S)
    bench.loaded.set()
    await preparing
    await bench.later(first, seconds=RETIRED_AFTER_S - 1)
    assert bench.log == ["+a"]


async def test_a_preparation_that_fails_leaves_others_their_backends() -> None:
    """A response that another owner accepted under the policy is judged by it while it cannot be prepared here."""
    bench = Bench()
    bench.loaded.clear()
    second = policy("two", "a", "broken")
    preparing = asyncio.create_task(bench.pool.prepare(second))
    await settle()
    hearing = asyncio.create_task(bench.pool.judge(policy("two", "a")).hear(Window(0, 0, 1, True, "x")))
    await settle()
    bench.loaded.set()
    with pytest.raises(SettingsError, match="no such model"):
        await preparing
    heard = await hearing
    assert [report.status for report in heard.reports] == ["ok"]
    assert bench.log == ["+a", "+broken", "-broken"]
