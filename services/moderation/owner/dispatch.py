"""Which worker gets a job (DESIGN 4): the affinity worker first, else the better of two random ones. Pure."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from shared.heartbeats import Member


@dataclass(slots=True)
class _Reservation:
    """A slot that the worker's beats do not show as taken yet."""

    until_ms: int
    claimed_ms: int | None = None

    def counts(self, member: Member, now_ms: int) -> bool:
        """Unclaimed: until it lapses. Claimed: until a beat younger than the claim, which has counted it."""
        return self.until_ms >= now_ms if self.claimed_ms is None else member.last_ms <= self.claimed_ms


class Slots:
    """Free slots per worker as the heartbeats tell them, less what was sent there and does not show in them yet.

    Heartbeats are up to `heartbeat_ms` old; without the reservations a burst would all go to one worker, and a
    full worker would be sent job after job until its next beat, each costing its response an attempt.
    """

    def __init__(self) -> None:
        self._reserved: dict[str, dict[str, _Reservation]] = {}

    def reserve(self, worker: str, response_id: str, until_ms: int) -> None:
        """A job was sent to `worker`; if no claim shows up, the reservation lapses at `until_ms`."""
        self._reserved.setdefault(worker, {})[response_id] = _Reservation(until_ms)

    def claimed(self, worker: str, response_id: str, claimed_ms: int) -> None:
        """The claim arrived: from its next beat on, the worker counts the slot itself."""
        reservation = self._reserved.get(worker, {}).get(response_id)
        if reservation is not None:
            reservation.claimed_ms = claimed_ms

    def free(self, member: Member, now_ms: int) -> int:
        """Slots of the worker that nothing is on its way to."""
        reserved = self._reserved.get(member.beat.id)
        if not reserved:
            return member.beat.slots_free
        for response_id in [r for r, reservation in reserved.items() if not reservation.counts(member, now_ms)]:
            del reserved[response_id]
        return member.beat.slots_free - len(reserved)


def choose_worker(
    workers: Sequence[Member], slots: Slots, now_ms: int, model: str, affinity: str | None, rng: random.Random
) -> Member | None:
    """A ready worker of `model` with a free slot and a mailbox, or None: then the job waits."""
    able = [m for m in workers if m.beat.model == model and m.beat.partitions]
    free = {m.beat.id: m for m in able if slots.free(m, now_ms) > 0}
    if affinity is not None and able:
        favourite = max(able, key=lambda m: _weight(affinity, m.beat.id))
        if favourite.beat.id in free:
            return favourite
    if not free:
        return None
    candidates = rng.sample(list(free.values()), min(2, len(free)))
    return max(candidates, key=lambda m: slots.free(m, now_ms))


def mailbox_of(worker: Member, response_id: str) -> int:
    """One of the worker's partitions of `generation.jobs`, always the same for a response."""
    mailboxes = worker.beat.partitions
    return mailboxes[int(_weight(response_id, worker.beat.id), 16) % len(mailboxes)]


def _weight(key: str, worker: str) -> str:
    """Rendezvous hashing: every owner ranks the workers alike for a key, without shared state."""
    return hashlib.blake2b(f"{key}\0{worker}".encode(), digest_size=8).hexdigest()
