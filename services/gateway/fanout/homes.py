"""Which partitions a gateway mints its ids in. Pure; every gateway comes to the same answer by itself."""

from collections.abc import Collection
from hashlib import blake2b


def home_partitions(gateway: str, gateways: Collection[str], partitions: int) -> frozenset[int]:
    """The home of `gateway` among the living `gateways` (itself included or not): partition numbers, never none.

    Rendezvous hashing: each partition belongs to the gateway with the highest score for it, so that a gateway that
    comes or goes moves only its own. With more gateways than partitions some would get none; such a one shares the
    partition for which its own score is the highest.
    """
    everyone = {*gateways, gateway}
    won = frozenset(p for p in range(partitions) if max(everyone, key=lambda g: _score(g, p)) == gateway)
    return won or frozenset({max(range(partitions), key=lambda p: _score(gateway, p))})


def _score(gateway: str, partition: int) -> tuple[bytes, str]:
    """Equal scores are as good as impossible; the id decides them, so that all agree."""
    return blake2b(f"{partition}/{gateway}".encode(), digest_size=8).digest(), gateway
