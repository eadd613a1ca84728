"""Dead letters as a queue holds them, and how a person names them. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from deploy.terminal.command import printable
from shared.errors import ChatmeshError, RecordError
from shared.log.redrive import REDRIVEN_HEADER
from shared.records import DeadLetter, Record, Redriven
from shared.records.codec import Envelope
from shared.topics import DEAD_LETTERS, REGISTRY, Topic

_ADDRESS = re.compile(r"(?P<topic>[a-z.]+?)(\.dlq)?(@(?P<number>\d+)|/(?P<partition>\d+)@(?P<offset>\d+))?")

_TIMES = re.compile("[0-9]{1,9}")


class LetterError(ChatmeshError):
    """What was asked for is no dead letter, or none that can be meant."""


@dataclass(frozen=True)
class Letter:
    """A dead letter: the record at offset `number` of the queue of its origin, put aside at `at_ms` (unix ms).

    `sent_back`: what stands in the queue of how it was sent back, in order.
    """

    number: int
    at_ms: int
    body: DeadLetter
    sent_back: list[Redriven] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`responses.events@5`: by this it can be named."""
        return f"{self.body.origin_topic}@{self.number}"

    @property
    def origin(self) -> tuple[str, int, int]:
        """Topic, partition and offset of the record that was put aside; (topic, -1, -1) for work that was given up."""
        return (self.body.origin_topic, self.body.origin_partition, self.body.origin_offset)

    @property
    def topic(self) -> Topic:
        """Where it came from."""
        return REGISTRY[self.body.origin_topic]

    @property
    def kind(self) -> str:
        """What it says it is, "" if it does not."""
        return printable(self.body.headers.get("ce_type", "").rpartition(".")[2] or _tag(self.body.value))

    @property
    def times(self) -> int:
        """How often it was sent back already, before it was put aside and since."""
        before = self.body.headers.get(REDRIVEN_HEADER, "")
        return max([int(before) if _TIMES.fullmatch(before) else 0, *(each.times for each in self.sent_back)])

    def decoded(self) -> Record:
        """The record in it. Raises RecordError where this release cannot read it."""
        headers = [(name, value.encode()) for name, value in self.body.headers.items()]
        record: Record = self.topic.decoder.decode(self.body.value.encode(), headers)
        return record


@dataclass(frozen=True)
class Address:
    """Which letters are meant: those of a topic, one by its number in the queue, or those of one record."""

    topic: str
    number: int | None = None
    place: tuple[int, int] | None = None

    @property
    def single(self) -> bool:
        return self.number is not None or self.place is not None

    def names(self, letter: Letter) -> bool:
        """Whether this letter is meant."""
        if letter.body.origin_topic != self.topic:
            return False
        return (self.number in (None, letter.number)) and self.place in (None, letter.origin[1:])


def parse_address(text: str) -> Address:
    """`responses.events`, `responses.events@5`, `responses.events/3@17`. Raises LetterError."""
    found = _ADDRESS.fullmatch(text)
    if found is None or found["topic"] not in DEAD_LETTERS:
        known = ", ".join(sorted(DEAD_LETTERS))
        raise LetterError(
            f"{text!r} names no dead letter: write TOPIC, TOPIC@NUMBER or TOPIC/PARTITION@OFFSET, where TOPIC is one "
            f"of {known}"
        )
    place = None if found["offset"] is None else (int(found["partition"]), int(found["offset"]))
    return Address(found["topic"], None if found["number"] is None else int(found["number"]), place)


def collect(envelopes: Iterable[Envelope[DeadLetter | Redriven]]) -> list[Letter]:
    """The letters of one queue from all its records, in order, each with how it was sent back."""
    letters: dict[int, Letter] = {}
    for envelope in envelopes:
        record = envelope.record
        if isinstance(record, DeadLetter):
            letters[envelope.offset] = Letter(envelope.offset, envelope.timestamp_ms, record)
        elif record.letter_offset in letters:  # else retention took the letter
            letters[record.letter_offset].sent_back.append(record)
    return list(letters.values())


def chosen(letters: Sequence[Letter], addresses: Sequence[Address]) -> list[Letter]:
    """The letters that any address names, all if there is none. Raises LetterError for an address of nothing."""
    for address in addresses:
        if address.single and not any(map(address.names, letters)):
            where = f"@{address.number}" if address.place is None else f"/{address.place[0]}@{address.place[1]}"
            raise LetterError(f"there is no dead letter {address.topic}{where}")
    return [each for each in letters if not addresses or any(address.names(each) for address in addresses)]


def _tag(value: str) -> str:
    try:
        return msgspec.json.decode(value.encode(), type=_Tagged).type
    except (msgspec.MsgspecError, UnicodeError, RecursionError):  # the latter: nested too deeply
        return ""


class _Tagged(msgspec.Struct):
    type: str = ""


def unreadable(letter: Letter) -> str | None:
    """Why this release cannot read the record in it, None if it can."""
    try:
        letter.decoded()
    except RecordError as error:
        return str(error)
    return None
