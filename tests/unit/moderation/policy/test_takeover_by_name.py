"""An owner that has rolled out another policy goes on with a response by the one that it was accepted under."""

import pytest

from services.moderation.policy import PolicyShelf, parse_policy
from shared.records import Accepted, Delta, Incomplete
from shared.topics import POLICIES, Service
from tests.support.fakes import MemoryLog, MemoryReplayer, MemoryWriter
from tests.support.owner_bench import OwnerBench, claimed, gateway_beat, requested, tokens, worker_beat
from tests.support.policies import CUT_PHRASE, TEST_POLICY

SECOND_POLICY = TEST_POLICY.replace("test-1", "test-2").replace("output: cut", "output: off")
CLEAN = "It was a bright cold day in April, and the clocks were striking thirteen. "


def shelf(log: MemoryLog) -> PolicyShelf:
    """A replica's own, on the common log."""
    return PolicyShelf(MemoryReplayer(log, Service.MODERATION), MemoryWriter(log, Service.MODERATION))


async def owner(log: MemoryLog, policy: str, generation: int) -> OwnerBench:
    """As the service wires it: the policy in use is known to all, those of others come from the log."""
    bench = OwnerBench(log, service_id=f"moderation_{generation}", generation=generation, policy=policy)
    policies = shelf(log)
    await policies.put(bench.policies.current)
    bench.policies.named = policies.named  # type: ignore[method-assign]
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await bench.start()
    return bench


@pytest.mark.parametrize("said_before", range(0, len(CLEAN) + 20, 13))
async def test_a_response_is_cut_by_its_own_policy_whoever_owns_it(said_before: int) -> None:
    log, text = MemoryLog(), f"{CLEAN}{CUT_PHRASE} and nobody may read this part of it, whoever owns it."
    first = await owner(log, TEST_POLICY, 1)
    await first.journal(requested(), claimed(), tokens(text[:said_before]))
    second = await owner(log, SECOND_POLICY, 2)
    await second.journal(tokens(text[said_before:], said_before, finish="stop"))
    (accepted,) = [event for event in second.events() if isinstance(event, Accepted)]
    assert accepted.policy == parse_policy(TEST_POLICY).name
    assert {event.policy for event in second.events() if isinstance(event, Delta)} == {accepted.policy}
    end = second.events()[-1]
    assert isinstance(end, Incomplete) and end.text == CLEAN


async def test_new_responses_are_accepted_under_the_new_policy_meanwhile() -> None:
    log, text = MemoryLog(), f"{CLEAN}{CUT_PHRASE}"
    await (await owner(log, TEST_POLICY, 1)).journal(requested(), claimed(), tokens(CLEAN))
    second = await owner(log, SECOND_POLICY, 2)
    await second.journal(requested(2), claimed(2, "claim_b"), tokens(text, number=2, claim="claim_b", finish="stop"))
    (accepted,) = [event for event in second.events(2) if isinstance(event, Accepted)]
    assert accepted.policy == parse_policy(SECOND_POLICY).name
    assert second.events(2)[-1].text == text
    assert len(log.of(POLICIES)) == 2
