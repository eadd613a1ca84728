"""The state of the modelled mesh: one response, its two logs, two workers, two owners, what may still go wrong.

Everything is a tuple, so a state is its own hash. Logs hold indexes into the explorer's table of records. What a
process has in memory is only what does not follow from a prefix of a log: the rest is folded again.
"""

from typing import NamedTuple

Log = tuple[int, ...]
Ids = tuple[int, ...]


class Faults(NamedTuple):
    """How many of each may still happen. `cancel` is the client's, and no fault, but as rare. `deaf`: a backend without
    whose answer nothing passes has none, where judging takes its time (`Scenario.judges_late`)."""

    crash: int = 0
    pause: int = 0
    duplicate: int = 0
    loss: int = 0
    cancel: int = 0
    deaf: int = 0


class Held(NamedTuple):
    """A claim in a worker's hands. `said` None: it waits for its ack, to read the journal. `start`: its seam.
    `failed`: an append was lost, and the worker does not know yet ("" if none: "claim" or "tokens")."""

    claim: int
    attempt: int
    said: Ids | None
    start: int = 0
    failed: str = ""


class Worker(NamedTuple):
    """`jobs`: attempts in its mailbox."""

    alive: bool = True
    jobs: tuple[int, ...] = ()
    held: tuple[Held, ...] = ()


class Owner(NamedTuple):
    """A moderation replica. Phases: "out" (owns nothing), "folded" (has folded the journal up to `read`), "fencing"
    (has read the events up to `seen` and owes its marker), "marked" (its marker stands at `mark`), "live".

    `read`: journal offset behind what it folded. `screened`: pieces that its screen was fed. `public`: how
    much raw text it thinks is public. `ended`: published its
    end. `ending`: gave up. `attempt`: the last that it sent. `broken`: an append was lost, not noticed yet.
    `generation`: of the group, when it got the partition; `heals`: how often it took it over anew since. `deaf`: it can
    judge no more of the text.
    """

    phase: str = "out"
    read: int = 0
    seen: int = 0
    mark: int = 0
    epoch: int = 0
    resume_at: int = 0
    screened: int = 0
    public: int = 0
    accepted: bool = False
    ended: bool = False
    ending: bool = False
    attempt: int = 0
    broken: bool = False
    generation: int = 0
    heals: int = 0
    deaf: bool = False


class World(NamedTuple):
    """`assigned`: whom the group gave the partition. `rejected`: the client was told that nothing became of it.
    `spent`: faults that may have cost an attempt. `deafened`: text may have stayed unjudged."""

    journal: Log = ()
    events: Log = ()
    workers: tuple[Worker, ...] = (Worker(), Worker())
    owners: tuple[Owner, ...] = (Owner(), Owner())
    assigned: int = 0
    generation: int = 0
    requested: bool = False
    rejected: bool = False
    claims: int = 0
    faults: Faults = Faults()
    spent: int = 0
    deafened: bool = False

    def worker(self, index: int, worker: Worker) -> "World":
        """The same world with another worker `index`."""
        return self._replace(workers=_put(self.workers, index, worker))

    def owner(self, index: int, owner: Owner) -> "World":
        """The same world with another owner `index`."""
        return self._replace(owners=(owner, self.owners[1]) if index == 0 else (self.owners[0], owner))

    def spend(self, fault: str) -> "World | None":
        """The world after one more fault of this kind; None if none is left."""
        left: int = getattr(self.faults, fault)
        if left == 0:
            return None
        costs_attempt = fault in ("crash", "pause", "loss")
        return self._replace(faults=self.faults._replace(**{fault: left - 1}), spent=self.spent + costs_attempt)


def _put(workers: tuple[Worker, ...], index: int, worker: Worker) -> tuple[Worker, ...]:
    return (*workers[:index], worker, *workers[index + 1 :])
