"""Nothing is public before its verdict stands in the log, also while the broker takes no verdicts (DESIGN 8.2)."""

import pytest

from shared.records import Verdict
from shared.topics import EVENTS, VERDICTS
from tests.chaos.evidence import Screening
from tests.support.fakes import MemoryLog
from tests.support.owner_bench import claimed, requested
from tests.support.policies import CUT_PHRASE, MASK_PHRASE, TEST_POLICY
from tests.unit.moderation.parity.courses import Course, outcome, owner, public, until_ended, violations

TEXT = f"It was a bright cold day in April, and the clocks were striking thirteen; a {MASK_PHRASE} lay there."

FORBIDDING = Screening(stride=4, hold_back=32, masks={MASK_PHRASE: "[fruit]"}, cuts=(CUT_PHRASE,))
"""What the checker knows of the policy."""


@pytest.mark.parametrize("stage", ["input", "output"])
async def test_what_cannot_be_told_to_auditors_is_not_told_to_clients(stage: str) -> None:
    bench = owner(MemoryLog(), TEST_POLICY)
    await bench.start()
    bench.writer.fails = lambda topic, record: isinstance(record, Verdict) and record.stage == stage
    await bench.together(requested(), claimed(), *Course(tuple(TEXT)).journal())
    for _ in range(5):
        await bench.tick()  # which takes the partition over anew each time
    assert public(bench.log).position == 0
    assert (public(bench.log).accepted is None) == (stage == "input")
    assert all(verdict.stage != stage for verdict in bench.log.of(VERDICTS))
    bench.writer.fails = lambda topic, record: False
    await bench.tick()
    await until_ended(bench, 1)
    assert outcome(bench.log).text == TEXT.replace(MASK_PHRASE, "[fruit]")
    assert violations(bench.log, FORBIDDING) == []


async def test_a_broker_that_is_slow_to_take_a_verdict_keeps_its_text() -> None:
    bench = owner(MemoryLog(), TEST_POLICY)
    await bench.start()
    await bench.together(requested(), claimed())
    before = bench.log.of(EVENTS)
    bench.writer.slow = True
    await bench.together(*Course(tuple(TEXT)).journal())
    assert any(verdict.stage == "output" for verdict in bench.log.of(VERDICTS)), "nothing was judged: nothing is shown"
    assert bench.log.of(EVENTS) == before
    bench.writer.acknowledge()
    await until_ended(bench, 1)
    assert violations(bench.log, FORBIDDING) == []
