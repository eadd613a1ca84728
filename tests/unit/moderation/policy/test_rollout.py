"""A changed policy file comes into force while the service runs; a faulty one leaves everything as it is."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from services.moderation.policy import Policy, PolicyShelf, Rollout, load_policy
from shared.errors import SettingsError
from shared.records import PolicyKnown
from shared.topics import POLICIES, Service
from tests.support.fakes import MemoryLog, MemoryReplayer, MemoryWriter

FIRST = "version: first\ncategories:\n  hate: {output: cut, patterns: [x]}\n"
SECOND = "version: second\ncategories:\n  hate: {output: flag, patterns: [x]}\n"
FAULTY = "version: third\ncategories:\n  hate: {output: shout}\n  sexual: {input: whisper}\n"


class Bench:
    """A rollout that was started with FIRST, its file, and what it asked of others."""

    def __init__(self, folder: Path, every_s: float = 0.0) -> None:
        self.log = MemoryLog()
        self.file = folder / "policy.yaml"
        self.file.write_text(FIRST)
        self.writer = MemoryWriter(self.log, Service.MODERATION)
        self.prepared: list[str] = []
        self.trouble: Exception | None = None
        shelf = PolicyShelf(MemoryReplayer(self.log, Service.MODERATION), self.writer)
        self.rollout = Rollout(load_policy(self.file), self.file, shelf, self.prepare, every_s=every_s)

    async def prepare(self, policy: Policy) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.prepared.append(policy.version)

    @property
    def known(self) -> list[str]:
        """The names that other replicas can find."""
        return [known.name for known in self.log.of(POLICIES, PolicyKnown)]

    @property
    def current(self) -> str:
        return self.rollout.current.version


@pytest.fixture
async def bench(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO)
    made = Bench(tmp_path)
    await made.rollout.start()
    caplog.clear()
    return made


async def test_the_first_policy_is_prepared_and_known_when_it_has_started(bench: Bench) -> None:
    assert (bench.prepared, bench.known, bench.current) == (["first"], [bench.rollout.current.name], "first")


async def test_a_policy_that_cannot_be_prepared_ends_the_start(tmp_path: Path) -> None:
    made = Bench(tmp_path)
    made.trouble = SettingsError("no such model")
    with pytest.raises(SettingsError, match="no such model"):
        await made.rollout.start()
    assert made.known == []


async def test_a_changed_file_comes_into_force(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    replaced = bench.rollout.current
    bench.file.write_text(SECOND)
    await bench.rollout.look()
    assert (bench.prepared, bench.current) == (["first", "second"], "second")
    assert bench.known == [replaced.name, bench.rollout.current.name]
    (line,) = caplog.messages
    assert line == f"policy {bench.rollout.current.name} replaces {replaced.name} (responses that run keep theirs)"
    assert await bench.rollout.named(replaced.name) == replaced


async def test_a_file_that_did_not_change_is_left_alone(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        await bench.rollout.look()
    assert bench.prepared == ["first"] and caplog.messages == []


async def test_a_file_that_says_the_same_otherwise_changes_nothing(bench: Bench) -> None:
    bench.file.write_text("# the same\n" + FIRST)
    await bench.rollout.look()
    assert bench.prepared == ["first"]


async def test_each_fault_is_told_once_and_the_old_policy_stays(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.file.write_text(FAULTY)
    for _ in range(3):
        await bench.rollout.look()
    first, *faults = caplog.messages
    assert first == f"policy {bench.rollout.current.name} stays: the moderation policy cannot be used"
    assert [fault.split(": ")[1] for fault in faults] == ["categories.hate.output", "categories.sexual.input"]
    assert (bench.prepared, bench.current) == (["first"], "first")


async def test_a_file_that_is_gone_is_told_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.file.unlink()
    for _ in range(3):
        await bench.rollout.look()
    (line,) = caplog.messages
    assert "cannot read the moderation policy" in line and bench.current == "first"
    bench.file.write_text(SECOND)
    await bench.rollout.look()
    assert bench.current == "second"


async def test_backends_that_cannot_be_started_keep_the_old_policy(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.trouble = SettingsError("OPENAI_API_KEY is not set")
    bench.file.write_text(SECOND)
    for _ in range(2):
        await bench.rollout.look()
    assert caplog.messages == [f"policy {bench.rollout.current.name} stays: OPENAI_API_KEY is not set"]
    assert len(bench.known) == 1


async def test_not_even_a_librarys_own_error_ends_the_service(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.trouble = RuntimeError("CUDA out of memory")
    bench.file.write_text(SECOND)
    for _ in range(2):
        await bench.rollout.look()
    (record,) = caplog.records
    assert record.message == f"policy {bench.rollout.current.name} stays: RuntimeError: CUDA out of memory"
    assert record.exc_info is not None and bench.current == "first"


async def test_a_broker_that_is_away_only_delays_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.writer.fails = lambda _topic, _record: True
    bench.file.write_text(SECOND)
    for _ in range(2):
        await bench.rollout.look()
    assert bench.current == "first" and len(caplog.messages) == 1
    bench.writer.fails = lambda _topic, _record: False
    await bench.rollout.look()
    assert bench.current == "second"


async def until_current(bench: Bench, version: str) -> None:
    async with asyncio.timeout(5):
        while bench.current != version:
            await asyncio.sleep(0.005)


async def test_the_file_is_looked_at_again_and_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, every_s=0.01)
    watching = asyncio.create_task(bench.rollout.watch())
    bench.file.write_text(SECOND)
    await until_current(bench, "second")
    bench.file.write_text(FIRST)
    await until_current(bench, "first")
    watching.cancel()
    await asyncio.wait({watching})


async def test_sighup_has_it_looked_at_at_once_and_faults_told_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    watching = asyncio.create_task(bench.rollout.watch())  # never looks by itself
    await asyncio.sleep(0)
    bench.file.write_text(FAULTY)
    for count in (1, 2):
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(5):
            while sum("cannot be used" in message for message in caplog.messages) < count:
                await asyncio.sleep(0.005)
    bench.file.write_text(SECOND)
    os.kill(os.getpid(), signal.SIGHUP)
    await until_current(bench, "second")
    watching.cancel()
    await asyncio.wait({watching})
