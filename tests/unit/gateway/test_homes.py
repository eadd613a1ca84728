"""Rendezvous hashing: complete, balanced, and stable when gateways come and go."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.gateway.fanout import home_partitions

GATEWAYS = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=12)


@given(gateways=GATEWAYS, partitions=st.integers(1, 64))
def test_every_partition_is_somebodys_home_and_nobody_has_none(gateways: set[str], partitions: int) -> None:
    homes = {g: home_partitions(g, gateways, partitions) for g in gateways}
    assert frozenset().union(*homes.values()) == frozenset(range(partitions))
    assert all(homes.values())


@given(gateways=GATEWAYS, partitions=st.integers(16, 64))
def test_one_that_leaves_moves_only_its_own(gateways: set[str], partitions: int) -> None:
    before = {g: home_partitions(g, gateways, partitions) for g in gateways}
    assume(sum(map(len, before.values())) == partitions)  # nobody shares
    leaver = min(gateways)
    for gateway in gateways - {leaver}:
        after = home_partitions(gateway, gateways - {leaver}, partitions)
        assert before[gateway] <= after <= before[gateway] | before[leaver]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_balance(count: int) -> None:
    gateways = [f"gateway-{n}" for n in range(count)]
    sizes = [len(home_partitions(g, gateways, 1024)) for g in gateways]
    assert sum(sizes) == 1024
    assert max(sizes) < 1.35 * 1024 / count
    assert min(sizes) > 0.65 * 1024 / count


def test_a_gateway_that_is_not_yet_known_counts_itself() -> None:
    assert home_partitions("me", [], 8) == frozenset(range(8))
    assert home_partitions("me", ["other"], 8) == home_partitions("me", ["me", "other"], 8)


def test_more_gateways_than_partitions_share() -> None:
    gateways = [f"g{n}" for n in range(20)]
    assert all(len(home_partitions(g, gateways, 2)) >= 1 for g in gateways)
