"""What the store must hold after a run, computed from the public log and from what clients were told. Pure.

The rules of DESIGN 8.5 for conversations, told a second time: nothing of the store's code is used here but its types.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from services.history.stores.port import Conversation, StoredResponse
from shared.folds import EventFold
from shared.records import ConversationDeleted, ConversationUpdated, Failed, Item, Message, Requested
from shared.records.codec import Envelope
from shared.records.conversations import ConversationEvent
from tests.chaos.evidence import Evidence, Harm, SubLog, Violation
from tests.chaos.logrules import check_logs, folded
from tests.chaos.store.notes import Line, Notes, Story

HARMS = frozenset(
    {
        Harm.ODD,
        Harm.LOCKED,
        Harm.INTERLEAVED,
        Harm.DISORDERED,
        Harm.TWICE,
        Harm.MISSING,
        Harm.MADE_UP,
        Harm.REMEMBERED,
        Harm.UNTOLD,
    }
)
"""What is looked for here and nowhere else; tests/chaos/test_store_rules.py shows each."""

_LATER = float("inf")


@dataclass(frozen=True, slots=True)
class Kept:
    """A conversation as the store has it; `conversation` is None where it has none."""

    conversation: Conversation | None
    items: Sequence[Item]

    @property
    def lines(self) -> list[Line]:
        return [(item.role, "".join(item.parts)) for item in self.items]


@dataclass(frozen=True)
class Remains:
    """What a run left: both logs by response, what the store holds, what was told of conversations, clients' notes."""

    journals: Mapping[str, SubLog]
    events: Mapping[str, SubLog]
    responses: Mapping[str, StoredResponse | None]
    kept: Mapping[str, Kept]
    told: Sequence[Envelope[ConversationEvent]]
    notes: Notes


@dataclass(frozen=True, slots=True)
class Group:
    """Lines that must stand together: those of a response, or of one call. They came between `began_ms` and `ended_ms`;
    `certain` is False where nobody knows whether they came at all."""

    lines: Sequence[Line]
    began_ms: float
    ended_ms: float
    certain: bool = True
    response_id: str | None = None


@dataclass
class _Chat:
    """A story, the responses that ran in it, and the state of the store."""

    story: Story
    kept: Kept
    turns: list[Group] = field(default_factory=list)

    def groups(self) -> list[Group]:
        added = [
            Group(a.lines, a.began_ms, _LATER if a.ended_ms is None else a.ended_ms, certain=a.ended_ms is not None)
            for a in self.story.added
        ]
        return [*added, *self.turns]

    def erased(self) -> frozenset[Line]:
        return frozenset(line for erased in self.story.erased for line in erased.lines)


def check_store(remains: Remains) -> list[Violation]:
    """Every violation: the store and the public log tell the same, in the same order, and no lock is left."""
    found = [Violation(Harm.ODD, "a client", odd) for odd in remains.notes.odd]
    evidence = Evidence([], remains.journals, remains.events, {}, stored=remains.responses)
    folds = {response_id: folded(records) for response_id, records in remains.events.items()}
    for response_id in sorted(remains.events):
        found += check_logs(response_id, evidence)
    for response_id in remains.notes.erased_responses:
        if not folds[response_id].deleted:
            found.append(Violation(Harm.REMEMBERED, response_id, "it was erased, and the public log does not say so"))
    for chat in _chats(remains, folds):
        found += _deleted(chat, folds) if chat.story.deleted else _alive(chat, remains)
        found += _announced(chat, remains, folds)
    return found


def _chats(remains: Remains, folds: Mapping[str, EventFold]) -> list[_Chat]:
    chats = {story.id: _Chat(story, remains.kept[story.id]) for story in remains.notes.stories}
    for response_id, fold in folds.items():
        accepted, terminal = fold.accepted, fold.terminal
        if accepted is None or terminal is None or accepted.spec.conversation not in chats:
            continue
        lines = [] if isinstance(terminal, Failed) else [*map(_line, accepted.spec.input), ("assistant", terminal.text)]
        began_ms = next(e.timestamp_ms for e in remains.journals[response_id] if isinstance(e.record, Requested))
        ended_ms = next(e.timestamp_ms for e in remains.events[response_id] if e.record == terminal)
        turn = Group(lines, began_ms, ended_ms, response_id=response_id)
        chats[accepted.spec.conversation].turns.append(turn)
    for chat in chats.values():
        chat.turns.sort(key=lambda turn: turn.began_ms)
    return list(chats.values())


def _line(message: Message) -> Line:
    return message.role, message.text


# -- a conversation that is gone -------------------------------------------------------------------------------------


def _deleted(chat: _Chat, folds: Mapping[str, EventFold]) -> Iterator[Violation]:
    if chat.kept.conversation is not None or chat.kept.items:
        yield Violation(Harm.REMEMBERED, chat.story.id, f"it was deleted, and {chat.kept} is there")
    for turn in chat.turns:
        assert turn.response_id is not None
        if not folds[turn.response_id].deleted:
            yield Violation(Harm.REMEMBERED, turn.response_id, f"it ran in {chat.story.id}, which was deleted")


# -- a conversation that lives ---------------------------------------------------------------------------------------


def _alive(chat: _Chat, remains: Remains) -> Iterator[Violation]:
    where, conversation = chat.story.id, chat.kept.conversation
    if conversation is None:
        yield Violation(Harm.MISSING, where, "the store has no such conversation")
        return
    if conversation.holder is not None:
        yield Violation(Harm.LOCKED, where, f"nothing runs, and it is held by {conversation.holder}")
    yield from _interleaved(chat)
    yield from _lines(chat)
    yield from _order(chat)
    yield from _contexts(chat, remains)


def _interleaved(chat: _Chat) -> Iterator[Violation]:
    for one, two in pairwise(chat.turns):
        if two.began_ms < one.ended_ms:
            detail = f"{two.response_id} began {one.ended_ms - two.began_ms:.0f} ms before {one.response_id} had ended"
            yield Violation(Harm.INTERLEAVED, chat.story.id, detail)


def _lines(chat: _Chat) -> Iterator[Violation]:
    """Everything once, nothing that was erased, nothing of nobody's; who was added with others has them beside."""
    where, stored, erased = chat.story.id, chat.kept.lines, chat.erased()
    groups = chat.groups()
    said = {line for group in groups for line in group.lines}
    for line, times in Counter(stored).items():
        if times > 1:
            yield Violation(Harm.TWICE, where, f"{times} times: {line}")
        if line in erased:
            yield Violation(Harm.REMEMBERED, where, f"it was erased, and is there: {line}")
        if line not in said:
            yield Violation(Harm.MADE_UP, where, f"nobody said it, or it was never told: {line}")
    for group in groups:
        wanted = [line for line in group.lines if line not in erased]
        there = [line for line in stored if line in set(group.lines) and line not in erased]
        if there != wanted and (there or group.certain):
            yield Violation(Harm.MISSING, where, f"of {group.response_id or 'one call'} it has {there}, not {wanted}")


def _order(chat: _Chat) -> Iterator[Violation]:
    """Groups stand unbroken, and none stands before one that had come when it began."""
    groups = {line: group for group in chat.groups() for line in group.lines}
    standing = [groups[line] for line in chat.kept.lines if line in groups]
    unbroken = [group for number, group in enumerate(standing) if number == 0 or standing[number - 1] is not group]
    if len({id(group) for group in unbroken}) < len(unbroken):
        yield Violation(Harm.INTERLEAVED, chat.story.id, "what came together does not stand together")
    latest_began_ms = 0.0
    for group in unbroken:
        if group.ended_ms < latest_began_ms:
            yield Violation(Harm.DISORDERED, chat.story.id, f"{group.lines} stand behind what began after their end")
        latest_began_ms = max(latest_began_ms, group.began_ms)


def _contexts(chat: _Chat, remains: Remains) -> Iterator[Violation]:
    """Each turn was reminded of exactly what stands before it; of what was erased since, nobody asks."""
    stored, erased = chat.kept.lines, chat.erased()
    for turn in chat.turns:
        assert turn.response_id is not None
        journal = remains.journals[turn.response_id]
        request = next(e.record for e in journal if isinstance(e.record, Requested))
        reminded = [_line(message) for message in request.context]
        gone = {line for e in chat.story.erased if e.ended_ms < turn.began_ms for line in e.lines}
        if gone.intersection(reminded):
            detail = f"it was reminded of what was erased: {gone.intersection(reminded)}"
            yield Violation(Harm.REMEMBERED, turn.response_id, detail)
        own = [stored.index(line) for line in turn.lines if line in stored]
        left = [line for line in reminded if line not in erased]
        if own and left != stored[: min(own)]:
            yield Violation(Harm.AMNESIA, turn.response_id, f"it was reminded of {left}, not of {stored[: min(own)]}")


# -- what others hear ------------------------------------------------------------------------------------------------


def _announced(chat: _Chat, remains: Remains, folds: Mapping[str, EventFold]) -> Iterator[Violation]:
    """Every turn that stands, and every deletion, is told on `conversations.events`."""
    heard = [e.record for e in remains.told if e.record.conversation_id == chat.story.id]
    if chat.story.deleted:
        if not any(isinstance(record, ConversationDeleted) for record in heard):
            yield Violation(Harm.UNTOLD, chat.story.id, "nobody was told that it was deleted")
        return
    operations = {record.operation for record in heard if isinstance(record, ConversationUpdated)}
    for turn in chat.turns:
        assert turn.response_id is not None
        if turn.lines and not folds[turn.response_id].deleted and turn.response_id not in operations:
            yield Violation(Harm.UNTOLD, chat.story.id, f"nobody was told of what {turn.response_id} brought")
