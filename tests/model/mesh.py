"""What may happen next: every step of every process, and every fault that is left.

Processes read the logs as late as they like, so an append never needs to be late: whoever decided on an old prefix
is simply slow. What remains to be modelled is how appends go wrong: one is lost while later ones land, one lands a
second time, a process dies between two of them.

The steps of owners mirror `services/moderation/owner` (fence, screen, dispatch, watch, heal), those of workers
`services/inference/worker`. `stop` is left out: it only frees slots. So is time: the watch acts whenever trouble is
real, and for the price of a `pause` when it is not (a live worker that was silent for too long).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shared.folds import EventFold, JournalFold
from shared.records import Cut, Events, Finish, Journal
from tests.model.folding import DEAF, POLICY_CHANGED, Folding
from tests.model.text import LIMIT
from tests.model.world import Held, Log, Owner, Worker, World

_HEALS = 4  # more than an owner heals here: its heals count within one generation


class Step(NamedTuple):
    """One thing that may happen. `fault`: whether it is one, so that a mesh without faults does not take it."""

    label: str
    world: World
    fault: bool = False


class Send(NamedTuple):
    """An append that a process makes: to a `log` (`what` is the record), or of job `what` to a worker's mailbox."""

    log: str
    what: int
    worker: int = 0


class Act(NamedTuple):
    """What an owner decided: its new state and its appends, in order. `rejected`: it told the client so."""

    owner: Owner
    sends: tuple[Send, ...] = ()
    rejected: bool = False


class Mesh:
    """Enumerates steps. `spurious_attempts`: up to which attempt the watch may be wrong. `judges_late`: what owners
    read is judged some time later, in pieces of any size."""

    def __init__(self, folding: Folding, spurious_attempts: int = 3, *, judges_late: bool = False) -> None:
        self._folding = folding
        self._judges_late = judges_late
        self._spurious_attempts = spurious_attempts

    def steps(self, world: World) -> Iterator[Step]:
        """Everything that may happen in `world`."""
        yield from self._client(world)
        for index in range(len(world.workers)):
            yield from self._worker(world, index)
        yield from self._group(world)
        for index in range(len(world.owners)):
            yield from self._owner(world, index)
        yield from self._late_copies(world)

    # -- the client and the network --------------------------------------------------------------------------

    def _client(self, world: World) -> Iterator[Step]:
        if not world.requested:
            yield Step("the client asks", self._append(world, self._folding.requested())._replace(requested=True))
        elif (cancelled := world.spend("cancel")) is not None:
            yield Step("the client cancels", self._append(cancelled, self._folding.cancel()), fault=True)

    def _append(self, world: World, record: Journal) -> World:
        return world._replace(journal=(*world.journal, self._folding.table.add(record)))

    def _late_copies(self, world: World) -> Iterator[Step]:
        again = world.spend("duplicate")
        if again is None:
            return
        for index in dict.fromkeys(world.journal):
            copied = again._replace(journal=(*world.journal, index))
            yield Step(f"the journal gets a late copy of {self._name(index)}", copied, fault=True)
        for index in dict.fromkeys(world.events):
            copied = again._replace(events=(*world.events, index))
            yield Step(f"the events get a late copy of {self._name(index)}", copied, fault=True)
        for number, worker in enumerate(world.workers):
            for attempt in range(1, self._folding.journal(world.journal).attempt + 1):
                if worker.alive:
                    mailed = worker._replace(jobs=(*worker.jobs, attempt))
                    yield Step(f"job {attempt} comes again, to worker {number}", again.worker(number, mailed), True)

    def _name(self, index: int) -> str:
        return describe(self._folding.table.records[index])

    # -- workers ---------------------------------------------------------------------------------------------

    def _worker(self, world: World, number: int) -> Iterator[Step]:
        worker = world.workers[number]
        if not worker.alive:
            return
        if worker.jobs:
            yield from self._take_job(world, number)
        for held in worker.held:
            yield from self._hold(world, number, held)
        yield from self._crash_worker(world, number)

    def _take_job(self, world: World, number: int) -> Iterator[Step]:
        worker = world.workers[number]
        attempt, rest = worker.jobs[0], worker._replace(jobs=worker.jobs[1:])
        if any(held.attempt == attempt for held in worker.held):
            yield Step(f"worker {number} knows job {attempt} already", world.worker(number, rest))
            return
        claim = world.claims
        held = Held(claim, attempt, () if attempt == 1 else None)
        record = self._folding.claimed(claim, attempt, number)
        after = world._replace(claims=claim + 1)
        taken = after.worker(number, rest._replace(held=(*worker.held, held)))
        yield Step(f"worker {number} claims job {attempt} as c{claim}", self._append(taken, record))
        if (lossy := after.spend("loss")) is not None:
            failed = rest._replace(held=(*worker.held, held._replace(failed="claim")))
            yield Step(f"worker {number} claims job {attempt}: LOST", lossy.worker(number, failed), fault=True)

    def _hold(self, world: World, number: int, held: Held) -> Iterator[Step]:
        if held.failed:
            yield Step(f"worker {number} learns that c{held.claim} lost an append", self._give_up(world, number, held))
        elif (draining := world.spend("crash")) is not None:
            label = f"worker {number} releases c{held.claim}"
            yield Step(label, self._give_up(draining, number, held), fault=True)
        if held.said is not None:
            yield from self._say(world, number, held)
        elif not held.failed:
            yield from self._take_over(world, number, held)

    def _give_up(self, world: World, number: int, held: Held) -> World:
        """A claim that was never acknowledged is dropped; any other is released."""
        dropped = world.worker(number, _without(world.workers[number], held))
        return dropped if held.failed == "claim" else self._append(dropped, self._folding.released(held, number))

    def _take_over(self, world: World, number: int, held: Held) -> Iterator[Step]:
        """The ack may be that of a late copy: it names any place where the claim stands."""
        claimed = self._folding.table.add(self._folding.claimed(held.claim, held.attempt, number))
        worker = world.workers[number]
        for offset in (o for o, index in enumerate(world.journal) if index == claimed):
            said = self._folding.said_before(world.journal[: offset + 1], held.claim)
            if said is None:
                yield Step(
                    f"worker {number} finds c{held.claim} superseded", world.worker(number, _without(worker, held))
                )
            else:
                started = held._replace(said=said, start=len(said))
                label = f"worker {number} goes on with c{held.claim} at {len(said)}"
                yield Step(label, world.worker(number, _with(worker, held, started)))

    def _say(self, world: World, number: int, held: Held) -> Iterator[Step]:
        index, ids = self._folding.next_tokens(held)
        worker = world.workers[number]
        ended = len(ids) >= LIMIT
        after = _without(worker, held) if ended else _with(worker, held, held._replace(said=ids))
        label = f"worker {number} says {self._name(index)}"
        said = world.worker(number, after)._replace(journal=(*world.journal, index))
        yield Step(label, said)
        if not held.failed and (lossy := world.spend("loss")) is not None:
            # A lost finish is noticed too: the future of the append fails, whatever the worker still holds.
            failed = held._replace(said=ids, failed="tokens") if not ended else None
            lost = _with(worker, held, failed) if failed is not None else _without(worker, held)
            yield Step(f"{label}: LOST", lossy.worker(number, lost), fault=True)

    def _crash_worker(self, world: World, number: int) -> Iterator[Step]:
        """Its mailbox goes to the other worker, with the jobs whose offset was not committed yet."""
        crashed = world.spend("crash")
        other = 1 - number
        if crashed is None or not world.workers[other].alive:
            return
        worker = world.workers[number]
        dead = crashed.worker(number, Worker(alive=False))
        for again in ([], [held.attempt for held in worker.held]):
            heir = world.workers[other]
            mailed = heir._replace(jobs=(*heir.jobs, *again, *worker.jobs))
            note = f", its claimed jobs {again} come again" if again else ""
            yield Step(f"worker {number} DIES{note}", dead.worker(other, mailed), fault=True)
            if not worker.held:
                return

    # -- the group -------------------------------------------------------------------------------------------

    def _group(self, world: World) -> Iterator[Step]:
        """A partition whose owner died goes to the other; so it does when the owner only paused, and goes on later.
        (A pause before the request is `Scenario.handed_over`.)"""
        old, new = world.assigned, 1 - world.assigned
        if world.owners[new].phase == "out":
            turn = world._replace(assigned=new, generation=world.generation + 1)
            assigned = turn.owner(new, self._fold_anew(turn, Owner(generation=turn.generation)))
            if world.owners[old].phase == "out":
                yield Step(f"owner {new} takes over, folds all of the journal", assigned)
            elif world.requested and (paused := assigned.spend("pause")) is not None:
                yield Step(f"owner {old} PAUSES; owner {new} takes over, folds all of the journal", paused, fault=True)
        for number, owner in enumerate(world.owners):
            if owner.phase != "out" and number != world.assigned:
                yield Step(f"owner {number} learns that it lost the partition", world.owner(number, Owner()))

    def _fold_anew(self, world: World, owner: Owner) -> Owner:
        """Fold the journal to its end. Without a response there is nothing to mark."""
        fold = self._folding.journal(world.journal)
        start = Owner(read=len(world.journal), generation=owner.generation, heals=owner.heals)
        if fold.requested is None:
            return start._replace(phase="live", epoch=self._epoch(start, 0))
        return start._replace(phase="folded")

    def _epoch(self, owner: Owner, otherwise: int) -> int:
        """The group's word. Without that rule: one more than what it read."""
        return owner.generation * _HEALS + owner.heals if self._folding.rules.epochs_of_the_group else otherwise

    # -- owners ----------------------------------------------------------------------------------------------

    def _owner(self, world: World, number: int) -> Iterator[Step]:
        owner = world.owners[number]
        if owner.phase == "out":
            return
        if owner.phase == "folded":
            fencing = owner._replace(phase="fencing", seen=len(world.events))
            yield Step(f"owner {number} reads the events to {fencing.seen}", world.owner(number, fencing))
        elif owner.phase == "fencing":
            yield from self._mark(world, number)
        elif owner.phase == "marked":
            yield from self._go_live(world, number)
        else:
            yield from self._read(world, number)
            yield from self._hear(world, number)
            yield from self._watch(world, number)
        if owner.broken and self._folding.rules.heals:
            again = self._fold_anew(world, owner._replace(heals=owner.heals + 1))
            yield Step(f"owner {number} learns of a lost append, folds anew", world.owner(number, again))
        if (crashed := world.spend("crash")) is not None and number == world.assigned:
            yield Step(f"owner {number} DIES", crashed.owner(number, Owner()), fault=True)

    def _mark(self, world: World, number: int) -> Iterator[Step]:
        owner = world.owners[number]
        seen = self._folding.events(world.events[: owner.seen])
        if seen.terminal is not None or not self._folding.rules.marks_its_epoch:
            yield Step(
                f"owner {number} marks nothing", world.owner(number, owner._replace(phase="marked", mark=owner.seen))
            )
            return
        epoch = self._epoch(owner, seen.epoch + 1)
        index = self._folding.table.add(self._folding.screening(epoch, number))
        marked = owner._replace(phase="marked", mark=len(world.events))
        appended = world.owner(number, marked)._replace(events=(*world.events, index))
        yield Step(f"owner {number} marks epoch {epoch}", appended)
        if (lossy := world.spend("loss")) is not None:
            broken = owner._replace(phase="marked", mark=len(world.events), broken=True)
            yield Step(f"owner {number} marks epoch {epoch}: LOST", lossy.owner(number, broken), fault=True)

    def _go_live(self, world: World, number: int) -> Iterator[Step]:
        """Read the events up to the own marker (its ack may name a late copy), then act on the journal's fold."""
        owner = world.owners[number]
        if owner.broken:
            return
        for end in self._ends_of_reading(world, number):
            events = self._folding.events(world.events[:end])
            fold = self._folding.journal(world.journal[: owner.read])
            live = Owner(
                phase="live",
                read=owner.read,
                generation=owner.generation,
                heals=owner.heals,
                epoch=self._epoch(owner, events.epoch),
                resume_at=events.position,
                public=events.position,
                accepted=events.accepted is not None,
                ended=events.terminal is not None,
                attempt=fold.attempt,
            )
            label = f"owner {number} is live in epoch {live.epoch} at {live.resume_at}"
            yield from self._deliver(world, number, label, self._resume(world, number, live, fold, events))

    def _resume(self, world: World, number: int, live: Owner, fold: JournalFold, events: EventFold) -> list[Act]:
        accepted = events.accepted
        if events.epoch > live.epoch:
            return [Act(live._replace(ended=True))]
        if live.ended or accepted is None or accepted.policy == self._folding.policies[number].name:
            return self._go_on(world, number, live, fold)
        cut = self._to_journal(self._folding.cut("failed", POLICY_CHANGED))
        end = self._to_events(self._folding.given_up(fold, live.epoch, events.text, POLICY_CHANGED))
        return [Act(live._replace(ended=True), (cut, end))]

    def _ends_of_reading(self, world: World, number: int) -> Iterable[int]:
        owner = world.owners[number]
        if not self._folding.rules.reads_up_to_its_mark or not self._folding.rules.marks_its_epoch:
            return [owner.seen]
        if owner.mark == owner.seen and self._folding.events(world.events[: owner.seen]).terminal is not None:
            return [owner.seen]
        mark = world.events[owner.mark]
        return [offset + 1 for offset in range(owner.mark, len(world.events)) if world.events[offset] == mark]

    def _read(self, world: World, number: int) -> Iterator[Step]:
        """Fold one more record, or all there are, and act: how many come at once is the broker's whim."""
        owner, end = world.owners[number], len(world.journal)
        for read in sorted({owner.read + 1, end}) if owner.read < end else ():
            fold = self._folding.journal(world.journal[:read])
            reading = owner._replace(read=read, attempt=max(owner.attempt, fold.attempt))
            label = f"owner {number} reads the journal to {read}"
            yield from self._deliver(world, number, label, self._go_on(world, number, reading, fold))

    def _go_on(self, world: World, number: int, owner: Owner, fold: JournalFold) -> list[Act]:
        """Judge what was read, at once or later; what is accepted needs no judgement to be dispatched."""
        if not self._judges_late:
            return self._act(world, number, owner, fold)
        if not owner.accepted or owner.ended or owner.ending or fold.decision is not None or owner.attempt > 0:
            return [Act(owner)]
        return self._dispatch(world, owner, fold, ())

    def _hear(self, world: World, number: int) -> Iterator[Step]:
        """The backends answer about the input, about the next piece, or about all that was read; or one never does."""
        owner = world.owners[number]
        fold = self._folding.journal(world.journal[: owner.read])
        if not self._judges_late or owner.ended or fold.requested is None:
            return
        if owner.deaf:
            yield from self._deliver(
                world, number, f"owner {number} ends what it cannot judge", self._end_deaf(owner, fold)
            )
            return
        waits = not owner.accepted or owner.screened < len(fold.pieces) or fold.decision is not None
        waits &= owner.accepted or not owner.ending or fold.decision is not None
        steps = {min(owner.screened + 1, len(fold.pieces)), len(fold.pieces)}
        for up_to in sorted(steps) if waits else ():
            label = f"owner {number} hears its backends, up to piece {up_to}"
            yield from self._deliver(world, number, label, self._act(world, number, owner, fold, up_to))
        deafened = world.spend("deaf") if waits and not owner.ending else None
        if deafened is not None:
            label = f"owner {number} hears NOTHING"
            acts = self._go_deaf(owner, fold)
            yield from self._deliver(deafened._replace(deafened=True), number, label, acts, fault=True)

    def _go_deaf(self, owner: Owner, fold: JournalFold) -> list[Act]:
        """Whether a backend is there depends on the moment: the journal decides, unless it has already."""
        if fold.decision is not None:
            return [Act(owner._replace(deaf=True))] if owner.accepted else [Act(owner)]
        cut = self._to_journal(self._folding.cut("failed", DEAF, of_input=not owner.accepted))
        if not owner.accepted and not self._folding.rules.turns_away_by_journal:
            return [Act(owner._replace(ended=True), (cut,), rejected=True)]
        return [Act(owner._replace(ending=True, deaf=owner.accepted), (cut,))]

    def _end_deaf(self, owner: Owner, fold: JournalFold) -> list[Act]:
        """Where the journal has decided, the response ends with what is public."""
        if fold.decision is None:
            return []
        text = fold.text[: owner.public]
        if isinstance(fold.decision, Finish):
            end: Events = self._folding.given_up(fold, owner.epoch, text, DEAF)
        else:
            end = self._folding.terminal(fold, owner.epoch, text, violated=False)
        return [Act(owner._replace(ended=True), (self._to_events(end),))]

    def _act(self, world: World, number: int, owner: Owner, fold: JournalFold, up_to: int | None = None) -> list[Act]:
        """Screen, up to so many pieces, publish, dispatch the first attempt. One act per worker that may get it."""
        if owner.ended or fold.requested is None:
            return [Act(owner)]
        if not owner.accepted and isinstance(fold.decision, Cut) and fold.decision.stage == "input":
            return [Act(owner._replace(ended=True), rejected=True)]
        ends_now = fold.decision is not None and not self._folding.rules.accepts_before_it_ends
        if not owner.accepted and ends_now:
            cut = self._to_journal(self._folding.cut("failed"))
            return [Act(owner._replace(ended=True), (cut,), rejected=True)]
        sends: list[Send] = []
        if not owner.accepted:
            owner = owner._replace(accepted=True)
            sends.append(self._to_events(self._folding.accepted(owner.epoch, number)))
        owner = self._screen(number, owner, fold, sends, len(fold.pieces) if up_to is None else up_to)
        if owner.ended or owner.ending or fold.decision is not None or owner.attempt > 0:
            return [Act(owner, tuple(sends))]
        return self._dispatch(world, owner, fold, sends)

    def _screen(self, number: int, owner: Owner, fold: JournalFold, sends: list[Send], up_to: int) -> Owner:
        screened = self._folding.screened(owner, fold, up_to)
        owner = owner._replace(screened=up_to, public=max(owner.resume_at, screened.position))
        sends += [self._to_events(delta) for delta in self._folding.deltas(screened.outcome, owner.epoch, number)]
        if not screened.done:
            return owner
        violated = screened.outcome.cut is not None
        if violated and fold.decision is None:
            sends.append(self._to_journal(self._folding.cut()))
        text = fold.text[: owner.public]
        sends.append(self._to_events(self._folding.terminal(fold, owner.epoch, text, violated=violated)))
        return owner._replace(ended=True)

    def _dispatch(self, world: World, owner: Owner, fold: JournalFold, sends: Iterable[Send]) -> list[Act]:
        attempt = max(owner.attempt, fold.attempt) + 1
        return [
            Act(
                owner._replace(attempt=attempt),
                (
                    *sends,
                    self._to_journal(self._folding.dispatched(attempt, worker)),
                    Send("jobs", attempt, worker),
                ),
            )
            for worker, state in enumerate(world.workers)
            if state.alive
        ]

    def _watch(self, world: World, number: int) -> Iterator[Step]:
        owner = world.owners[number]
        fold = self._folding.journal(world.journal[: owner.read])
        if not owner.accepted or owner.ended or owner.ending or owner.attempt == 0 or fold.decision is not None:
            return
        trouble = self._trouble(world, owner, fold)
        if trouble is None and owner.attempt < self._spurious_attempts and not fold.exhausted:
            paused = world.spend("pause")
            if paused is not None:
                acts = self._dispatch(world, owner, fold, ())
                yield from self._deliver(
                    paused, number, f"owner {number} sees a PAUSED worker as dead", acts, fault=True
                )
        elif trouble is not None and fold.exhausted:
            cut = self._to_journal(self._folding.cut("failed"))
            acts = [Act(owner._replace(ending=True), (cut,))]
            yield from self._deliver(world, number, f"owner {number} gives up: {trouble}", acts)
        elif trouble is not None:
            acts = self._dispatch(world, owner, fold, ())
            yield from self._deliver(world, number, f"owner {number} starts an attempt: {trouble}", acts)

    def _trouble(self, world: World, owner: Owner, fold: JournalFold) -> str | None:
        """What the watch would see once its timeouts have passed and nobody was merely slow."""
        if owner.read < len(world.journal):
            return None
        claim = fold.owner
        if claim is None or claim.attempt < owner.attempt:
            coming = any(attempt == owner.attempt for worker in world.workers for attempt in worker.jobs)
            return None if coming else "nobody claims"
        if not claim.live:
            return "the claim is over" if self._folding.rules.replaces_void_claims else None
        holders = [held for worker in world.workers for held in worker.held if f"c{held.claim}" == claim.id]
        return None if holders else "no worker holds the claim"

    def _to_events(self, record: Events) -> Send:
        return Send("events", self._folding.table.add(record))

    def _to_journal(self, record: Journal) -> Send:
        return Send("journal", self._folding.table.add(record))

    # -- delivery --------------------------------------------------------------------------------------------

    def _deliver(
        self, world: World, number: int, label: str, acts: Iterable[Act], *, fault: bool = False
    ) -> Iterator[Step]:
        """All appends of an act land; or the owner dies between two of them; or one is lost and later ones land."""
        for act in acts:
            told = "".join(f"; {self._sent(send)}" for send in act.sends)
            # A gateway that has seen `accepted` drops a rejection that comes later.
            hears = act.rejected and self._folding.events(world.events).accepted is None
            base = world._replace(rejected=world.rejected or hears)
            yield Step(label + told, _land(base.owner(number, act.owner), act.sends), fault)
            crashed = base.spend("crash") if number == world.assigned else None
            for count in range(1, len(act.sends)) if crashed is not None else ():
                dead = crashed.owner(number, Owner()) if crashed is not None else base
                said = "".join(f"; {self._sent(send)}" for send in act.sends[:count])
                yield Step(f"{label}{said}; DIES", _land(dead, act.sends[:count]), fault=True)
            lossy = base.spend("loss")
            for lost in range(len(act.sends)) if lossy is not None else ():
                broken = lossy.owner(number, act.owner._replace(broken=True)) if lossy is not None else base
                landed = (*act.sends[:lost], *act.sends[lost + 1 :])
                yield Step(f"{label}{told}; LOST: {self._sent(act.sends[lost])}", _land(broken, landed), fault=True)

    def _sent(self, send: Send) -> str:
        return f"job {send.what} to worker {send.worker}" if send.log == "jobs" else self._name(send.what)


def describe(record: Journal | Events) -> str:
    """A record in a few words, for traces."""
    kind = str(record.__struct_config__.tag)
    fields = {
        name: getattr(record, name)
        for name in ("epoch", "claim", "attempt", "position", "start", "end", "text")
        if hasattr(record, name)
    }
    finish = getattr(record, "finish", None)
    if isinstance(finish, Finish):
        fields["finish"] = finish.reason
    if hasattr(record, "pieces"):
        fields["text"] = "".join(record.pieces)
    return f"{kind}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


def _land(world: World, sends: Iterable[Send]) -> World:
    logs: dict[str, Log] = {"journal": world.journal, "events": world.events}
    for send in sends:
        if send.log == "jobs":
            worker = world.workers[send.worker]
            if worker.alive:
                world = world.worker(send.worker, worker._replace(jobs=(*worker.jobs, send.what)))
        else:
            logs[send.log] = (*logs[send.log], send.what)
    return world._replace(journal=logs["journal"], events=logs["events"])


def _without(worker: Worker, held: Held) -> Worker:
    return worker._replace(held=tuple(other for other in worker.held if other != held))


def _with(worker: Worker, held: Held, changed: Held) -> Worker:
    return worker._replace(held=tuple(changed if other == held else other for other in worker.held))
