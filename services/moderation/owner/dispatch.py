"""Which worker gets a job (DESIGN 4): the affinity worker first, else the better of two random ones. Pure."""

import hashlib
import random
from collections.abc import Sequence

from shared.heartbeats import Member


class Slots:
    """Free slots per worker as the heartbeats tell them, less what was sent there and is not named yet.

    Heartbeats are up to `heartbeat_ms` old; without the reservations a burst would all go to one worker.
    """

    def __init__(self) -> None:
        self._reserved: dict[str, dict[str, int]] = {}

    def reserve(self, worker: str, response_id: str, until_ms: int) -> None:
        """A job was sent to `worker`; if no claim shows up, the reservation lapses at `until_ms`."""
        self._reserved.setdefault(worker, {})[response_id] = until_ms

    def settle(self, worker: str, response_id: str) -> None:
        """The claim arrived, or the job went elsewhere."""
        self._reserved.get(worker, {}).pop(response_id, None)

    def free(self, member: Member, now_ms: int) -> int:
        """Slots of the worker that nothing is on its way to."""
        reserved = self._reserved.get(member.beat.id)
        if not reserved:
            return member.beat.slots_free
        for response_id in [r for r, until_ms in reserved.items() if until_ms < now_ms]:
            del reserved[response_id]
        return member.beat.slots_free - len(reserved)


def choose_worker(
    workers: Sequence[Member], slots: Slots, now_ms: int, model: str, affinity: str | None, rng: random.Random
) -> Member | None:
    """A ready worker of `model` with a free slot and a mailbox, or None: then the job waits."""
    free = {m.beat.id: m for m in workers if m.beat.model == model and m.beat.partitions and slots.free(m, now_ms) > 0}
    if affinity is not None and workers:
        favourite = max(workers, key=lambda m: _weight(affinity, m.beat.id))
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
